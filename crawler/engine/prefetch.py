"""An iterator that runs in a separate thread, some items ahead of its consumer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL = 0.2  # seconds


class Prefetch(Generic[T]):
    """Items of `source`, at most `size` ahead. Once `stop` is set, no further item is requested.

    Attributes:
        ended: every item was taken.
    """

    def __init__(self, source: Iterator[T], size: int, stop: Event) -> None:
        self.ended = False
        self._queue: Queue[T | None] = Queue(size)
        self._stop = stop
        thread = ThreadPoolExecutor(1, thread_name_prefix="listing")
        self._work = thread.submit(self._run, source)
        thread.shutdown(wait=False)

    def take(self, timeout: float) -> T | None:
        """The next item; null if there is none after `timeout` seconds, or if all were taken.

        Raises:
            Exception: any exception that `source` raised instead of an item.
        """
        try:
            item = self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
        except Empty:
            return None
        if item is None:
            self.ended = True
            self._work.result()
        return item

    def _run(self, source: Iterator[T]) -> None:
        try:
            for item in source:
                if not self._put(item):
                    return
        finally:
            self._put(None)

    def _put(self, item: T | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL)
            except Full:
                continue
            return True
        return False
