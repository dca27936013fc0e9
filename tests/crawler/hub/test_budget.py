"""Budgets kept ahead: against the meter of the loopback hub, in any order of answers, mostly on a clock of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.hub.answers import AbandonedError
from provenance.crawler.hub.budget import LONGEST_WINDOW, Budgets
from provenance.demo_hub.messages import Refusal, Request
from tests.hub.quotas import Kind, Meter, Quotas

WINDOW = 300


class Clock:
    """Moves when somebody waits, and a little with every look."""

    def __init__(self) -> None:
        self.now = 1e9
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def meter(clock: Clock, quota: int) -> Meter:
    return Meter(Quotas(api=quota, resolvers=quota, window=WINDOW), clock)


def request(kind: Kind = "resolvers") -> Request:
    path = "/api/models" if kind == "api" else "/org/name/resolve/main/x"
    return Request("GET", "hub", path, {})


@given(
    quota=st.integers(1, 7),
    # How many answers are outstanding before one comes back, and which of them it is.
    schedule=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4), st.floats(0, 40)), min_size=1, max_size=60),
)
def test_no_request_is_refused_whatever_the_order_of_answers(
    quota: int, schedule: list[tuple[int, int, float]]
) -> None:
    clock = Clock()
    hub, budgets = meter(clock, quota), Budgets(clock.pause, clock)
    outstanding: list[tuple[object, object, Mapping[str, str]]] = []

    def answer(place: int) -> None:
        context, answered, headers = outstanding.pop(place)
        answered(headers)  # type: ignore[operator]
        context.__exit__(None, None, None)  # type: ignore[attr-defined]

    for in_flight, place, seconds in schedule:
        clock.now += seconds
        while len(outstanding) >= min(in_flight, quota) or (outstanding and budgets.waiting()):
            answer(min(place, len(outstanding) - 1))
        known = "resolvers" in budgets.limits
        if not known and outstanding:  # nobody knows the quota before the first answer
            answer(0)
        context = budgets.request("resolvers")
        answered = context.__enter__()
        outstanding.append((context, answered, hub(request())))  # a refusal is raised


def test_a_budget_is_used_up_before_anybody_waits() -> None:
    clock = Clock()
    hub, budgets = meter(clock, 5), Budgets(clock.pause, clock)
    for _ in range(17):
        with budgets.request("api") as answered:
            answered(hub(request("api")))
    assert clock.waits == [WINDOW + 1] * 3  # a second for the rounding
    assert budgets.waited == 3 * (WINDOW + 1)
    assert budgets.limits["api"].left == 3


def test_the_budgets_are_apart() -> None:
    clock = Clock()
    hub, budgets = meter(clock, 1), Budgets(clock.pause, clock)
    for resource in ("api", "resolvers"):
        with budgets.request(resource) as answered:
            answered(hub(request(resource)))
    assert clock.waits == []
    assert budgets.waiting() == WINDOW + 1


def test_others_who_use_the_same_budget_are_noticed() -> None:
    clock = Clock()
    hub, budgets = meter(clock, 12), Budgets(clock.pause, clock)
    for _ in range(5):
        with budgets.request("api") as answered:
            for _ in range(2):  # another process with the same token
                hub(request("api"))
            answered(hub(request("api")))
        if clock.waits:
            break
    assert clock.waits == [WINDOW + 1]


def test_a_hub_without_budgets_is_asked_at_will() -> None:
    budgets = Budgets(pytest.fail)
    for _ in range(100):
        with budgets.request("api") as answered:
            answered({})
    assert (budgets.limits, budgets.waiting()) == ({}, 0)


def test_a_stopped_crawl_does_not_wait_for_the_next_window() -> None:
    clock, stop = Clock(), threading.Event()
    budgets = Budgets(stop.wait, clock)
    with budgets.request("api") as answered:
        answered({"RateLimit": '"api";r=0;t=300'})
    stop.set()
    with pytest.raises(AbandonedError, match="stopped"), budgets.request("api"):
        pytest.fail("admitted")


def test_many_threads_keep_within_the_budget() -> None:
    """On the real clock, in windows of two seconds, with more to ask for than fits into one."""
    quotas = Quotas(api=6, resolvers=6, window=2)
    hub, budgets = Meter(quotas, time.time), Budgets(time.sleep)
    with budgets.request("api") as answered:
        answered(hub(request("api")))
    refused: list[Refusal] = []

    def work() -> None:
        for _ in range(3):
            with budgets.request("api") as answered:
                try:
                    answered(hub(request("api")))
                except Refusal as error:
                    refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert budgets.waited > 0


@pytest.mark.parametrize("hostile", ["r=0;t=999999999999", "r=0;t=86400"])
def test_no_announcement_stops_a_crawl_for_good(hostile: str) -> None:
    clock = Clock()
    budgets = Budgets(clock.pause, clock)
    policy = '"fixed window";"api";q=1;w=999999999999'
    for _ in range(3):
        with budgets.request("api") as answered:
            answered({"RateLimit": f'"api";{hostile}', "RateLimit-Policy": policy})
    assert max(clock.waits) <= LONGEST_WINDOW + 1
