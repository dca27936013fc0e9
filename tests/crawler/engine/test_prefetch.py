"""Items that are made ahead: in order, with their errors, and no more once it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.engine.prefetch import Prefetch
from provenance.schemas.errors import StoreBusyError


@given(size=st.integers(1, 5), n=st.integers(0, 30))
def test_items_come_in_order_and_end(size: int, n: int) -> None:
    ahead, found = Prefetch(iter(range(n)), size, threading.Event()), []
    while not ahead.ended:
        if (item := ahead.take(1.0)) is not None:
            found.append(item)
    assert found == list(range(n))


def test_an_error_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise StoreBusyError("no more")

    ahead = Prefetch(broken(), 5, threading.Event())
    assert ahead.take(1.0) == 1
    with pytest.raises(StoreBusyError, match="no more"):
        ahead.take(1.0)
    assert ahead.ended


def test_nothing_further_is_asked_for_once_stopped() -> None:
    stop, asked = threading.Event(), []

    def endless() -> Iterator[int]:
        while True:
            asked.append(1)
            yield 1

    ahead = Prefetch(endless(), 3, stop)
    assert ahead.take(1.0) == 1
    stop.set()
    time.sleep(0.5)
    before = len(asked)
    time.sleep(0.3)
    assert len(asked) == before <= 6
