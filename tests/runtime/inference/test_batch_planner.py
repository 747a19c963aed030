"""Plans of runs: every sequence and image once, within budget, never with a stranger."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.runtime.inference.batch_planner import (
    PADDING_ALLOWANCE,
    RunCosts,
    plan_decoder_runs,
    plan_vision_runs,
)

LENGTHS = st.lists(st.integers(1, 300) | st.sampled_from((1, 64, 64, 5000)), max_size=60)
BUDGETS = st.integers(1, 6000)
COSTS = st.builds(RunCosts, run=st.floats(0, 50), slot_pair=st.sampled_from((0.0, 1e-5, 1e-3, 1.0)))


@st.composite
def grouped(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Return lengths, and a group for each."""
    lengths = draw(LENGTHS)
    group = st.sampled_from(("retrieval", "code", "text-matching"))
    return lengths, draw(st.lists(group, min_size=len(lengths), max_size=len(lengths)))


def each_once(runs: Sequence[Sequence[int]], count: int) -> bool:
    return sorted(index for run in runs for index in run) == list(range(count)) and all(runs)


def wasted(lengths: Sequence[int], run: Sequence[int], costs: RunCosts) -> float:
    longest = max(lengths[index] for index in run)
    return costs.slot_pair * sum(longest**2 - lengths[index] ** 2 for index in run)


@given(case=grouped(), budget=BUDGETS, costs=COSTS)
def test_decoder_runs_hold_each_sequence_once_within_the_budget(
    case: tuple[list[int], list[str]], budget: int, costs: RunCosts
) -> None:
    lengths, groups = case
    runs = plan_decoder_runs(lengths, groups, budget, costs)
    assert each_once(runs, len(lengths))
    for run in runs:
        assert len({groups[index] for index in run}) == 1
        assert len(run) == 1 or sum(lengths[index] for index in run) <= budget
        slots = len(run) * max(lengths[index] for index in run)
        assert len(run) == 1 or slots <= PADDING_ALLOWANCE * budget
        assert wasted(lengths, run, costs) <= costs.run


@given(case=grouped(), budget=BUDGETS, costs=COSTS)
def test_decoder_runs_are_not_needlessly_many(
    case: tuple[list[int], list[str]], budget: int, costs: RunCosts
) -> None:
    lengths, groups = case
    runs = plan_decoder_runs(lengths, groups, budget, costs)
    for first, second in pairwise(runs):
        if groups[first[0]] == groups[second[0]]:
            members = [*first, second[0]]
            joined = [lengths[index] for index in members]
            too_many = sum(joined) > budget
            too_wide = max(joined) * len(joined) > PADDING_ALLOWANCE * budget
            too_wasteful = wasted(lengths, members, costs) > costs.run
            assert too_many or too_wide or too_wasteful


@given(case=grouped(), budget=BUDGETS, costs=COSTS)
def test_the_same_sequences_make_the_same_runs(
    case: tuple[list[int], list[str]], budget: int, costs: RunCosts
) -> None:
    lengths, groups = case
    first = plan_decoder_runs(lengths, groups, budget, costs)
    assert first == plan_decoder_runs(lengths, groups, budget, costs)


def test_a_short_text_joins_a_long_one_only_where_that_costs_less_than_a_run_of_its_own() -> None:
    padding, packed = RunCosts(run=16, slot_pair=1e-4), RunCosts(run=16, slot_pair=0)
    assert plan_decoder_runs([500, 8], ["a", "a"], 2048, padding) == [[0], [1]]
    assert plan_decoder_runs([500, 8], ["a", "a"], 2048, packed) == [[0, 1]]
    assert plan_decoder_runs([64, 8], ["a", "a"], 2048, padding) == [[0, 1]]


def test_only_engines_that_pad_pay_for_slots() -> None:
    config = sample_model(SampleSpec.full()).decoder
    assert RunCosts.of(config, pads_attention=False).slot_pair == 0
    # 77.1 M weights a layer, as the published model has them.
    assert RunCosts.of(config, pads_attention=True).slot_pair == pytest.approx(4096 / 77.07e6, 1e-3)


@given(sizes=LENGTHS, budget=BUDGETS)
def test_vision_runs_hold_each_image_once_within_the_budget(sizes: list[int], budget: int) -> None:
    runs = plan_vision_runs(sizes, budget)
    assert each_once(runs, len(sizes))
    for run in runs:
        assert len({sizes[index] for index in run}) == 1
        assert len(run) == 1 or sum(sizes[index] for index in run) <= budget


@given(size=st.integers(1, 50), count=st.integers(1, 40), budget=st.integers(1, 500))
def test_equal_images_fill_vision_runs(size: int, count: int, budget: int) -> None:
    per_run = max(1, budget // size)
    assert len(plan_vision_runs([size] * count, budget)) == -(-count // per_run)


def test_nothing_needs_no_runs() -> None:
    assert plan_decoder_runs([], [], 100, RunCosts(16, 1e-4)) == []
    assert plan_vision_runs([], 100) == []
