from pathlib import Path

import pytest

from trine.runtime.serving.http.rate_limits import Allowance, RateLimits, Standing
from trine.runtime.serving.service.calls import ServiceError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_are_a_minutes_requests() -> None:
    clock = Clock()
    limits = RateLimits(["a", "b"], 3, None, clock=clock)
    for _ in range(3):
        limits.take_request("a")
    with pytest.raises(ServiceError) as refused:
        limits.take_request("a")
    assert (refused.value.status, refused.value.retry_after) == (429, 20)
    limits.take_request("b")
    clock.now += 20
    limits.take_request("a")
    with pytest.raises(ServiceError):
        limits.take_request("a")


def test_a_bucket_holds_one_minute_however_long_it_fills() -> None:
    clock = Clock()
    limits = RateLimits([], 2, None, clock=clock)
    limits.take_request(None)
    clock.now += 3600
    assert limits.allowance(None) == Allowance(Standing(2, 2), None)


def test_tokens_beyond_the_estimate_are_paid_later() -> None:
    clock = Clock()
    limits = RateLimits(["a"], None, 60, clock=clock)
    limits.take_tokens("a", 10)
    limits.correct_tokens("a", 80)
    assert limits.allowance("a").tokens == Standing(60, 0)
    with pytest.raises(ServiceError) as refused:
        limits.take_tokens("a", 1)
    assert refused.value.retry_after == 31
    clock.now += 31
    limits.take_tokens("a", 1)


def test_tokens_that_were_not_used_come_back() -> None:
    limits = RateLimits(["a"], None, 60, clock=Clock())
    limits.take_tokens("a", 50)
    limits.correct_tokens("a", -45)
    assert limits.allowance("a").tokens == Standing(60, 55)


def test_a_request_larger_than_a_minute_needs_a_full_bucket() -> None:
    clock = Clock()
    limits = RateLimits(["a"], None, 60, clock=clock)
    limits.take_tokens("a", 120)
    clock.now += 60
    with pytest.raises(ServiceError):
        limits.take_tokens("a", 120)
    clock.now += 60
    limits.take_tokens("a", 120)


def test_workers_share_the_buckets(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    path.touch()
    clock = Clock()
    with path.open("r+b") as one, path.open("r+b") as other:
        first = RateLimits(["a", "b"], 2, None, one, clock)
        second = RateLimits(["a", "b"], 2, None, other, clock)
        first.take_request("b")
        second.take_request("b")
        with pytest.raises(ServiceError):
            first.take_request("b")
        assert second.allowance("a").requests == Standing(2, 2)


def test_without_limits_nothing_is_refused() -> None:
    limits = RateLimits(["a"], None, None)
    for _ in range(1000):
        limits.take_request("a")
        limits.take_tokens("a", 10**9)
    assert limits.allowance("a") == Allowance(None, None)
