import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.serving.scheduler.forward_cost import (
    MEMORY_RUNS,
    CostMeter,
    ForwardCost,
    fit_cost,
)


@given(
    st.floats(0, 1), st.floats(1e-6, 1e-2), st.lists(st.integers(1, 5000), min_size=2, max_size=9)
)
def test_a_line_is_found_again(run: float, token: float, tokens: list[int]) -> None:
    tokens = sorted({*tokens, 10_000})
    if len(tokens) < 2:
        return
    found = fit_cost([(n, run + token * n) for n in tokens])
    assert found.run == pytest.approx(run, rel=1e-6, abs=1e-9 + 1e-9 * token * 10_000)
    assert found.token == pytest.approx(token, rel=1e-6)


def test_runs_that_take_no_longer_with_more_tokens_cost_by_the_run_alone() -> None:
    assert fit_cost([(10, 0.02), (100, 0.01)]).token == 0
    assert ForwardCost(0.01, 0.0).fixed_tokens == float("inf")


def test_no_run_costs_less_than_nothing() -> None:
    found = fit_cost([(10, 0.001), (100, 1.0)])
    assert (found.run, found.token > 0) == (0.0, True)


def test_a_run_that_was_held_up_moves_nothing() -> None:
    meter = CostMeter()
    for _ in range(9):
        meter.add(10, 0.2)
        meter.add(100, 1.1)
    before = meter.cost
    meter.add(10, 60.0)
    assert before == meter.cost == ForwardCost(pytest.approx(0.1), pytest.approx(0.01))


def test_what_is_long_ago_is_forgotten() -> None:
    meter = CostMeter()
    for _ in range(3):
        meter.add(10, 0.2)
        meter.add(100, 1.1)
    assert meter.cost is not None
    for _ in range(MEMORY_RUNS):
        meter.add(10, 0.2)
    assert meter.cost is None
