"""Plans of runs: every sequence and picture once, within budget, never with a stranger."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.plan import PADDING_ALLOWANCE, plan_decoder_runs, plan_vision_runs

LENGTHS = st.lists(st.integers(1, 300) | st.sampled_from((1, 64, 64, 5000)), max_size=60)
BUDGETS = st.integers(1, 6000)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Return lengths, and a group for each."""
    lengths = draw(LENGTHS)
    group = st.sampled_from(("retrieval", "code", "text-matching"))
    return lengths, draw(st.lists(group, min_size=len(lengths), max_size=len(lengths)))


def each_once(runs: Sequence[Sequence[int]], count: int) -> bool:
    return sorted(index for run in runs for index in run) == list(range(count)) and all(runs)


@given(case=grouped(), budget=BUDGETS)
def test_decoder_runs_hold_each_sequence_once_within_the_budget(
    case: tuple[list[int], list[str]], budget: int
) -> None:
    lengths, groups = case
    runs = plan_decoder_runs(lengths, groups, budget)
    assert each_once(runs, len(lengths))
    for run in runs:
        assert len({groups[index] for index in run}) == 1
        assert len(run) == 1 or sum(lengths[index] for index in run) <= budget
        slots = len(run) * max(lengths[index] for index in run)
        assert len(run) == 1 or slots <= PADDING_ALLOWANCE * budget


@given(case=grouped(), budget=BUDGETS)
def test_decoder_runs_are_not_needlessly_many(
    case: tuple[list[int], list[str]], budget: int
) -> None:
    lengths, groups = case
    runs = plan_decoder_runs(lengths, groups, budget)
    for first, second in pairwise(runs):
        if groups[first[0]] == groups[second[0]]:
            joined = [lengths[index] for index in first] + [lengths[second[0]]]
            too_many = sum(joined) > budget
            too_wide = max(joined) * len(joined) > PADDING_ALLOWANCE * budget
            assert too_many or too_wide


@given(case=grouped(), budget=BUDGETS)
def test_the_same_sequences_make_the_same_runs(
    case: tuple[list[int], list[str]], budget: int
) -> None:
    lengths, groups = case
    assert plan_decoder_runs(lengths, groups, budget) == plan_decoder_runs(lengths, groups, budget)


@given(sizes=LENGTHS, budget=BUDGETS)
def test_vision_runs_hold_each_picture_once_within_the_budget(
    sizes: list[int], budget: int
) -> None:
    runs = plan_vision_runs(sizes, budget)
    assert each_once(runs, len(sizes))
    for run in runs:
        assert len({sizes[index] for index in run}) == 1
        assert len(run) == 1 or sum(sizes[index] for index in run) <= budget


@given(size=st.integers(1, 50), count=st.integers(1, 40), budget=st.integers(1, 500))
def test_equal_pictures_fill_vision_runs(size: int, count: int, budget: int) -> None:
    per_run = max(1, budget // size)
    assert len(plan_vision_runs([size] * count, budget)) == -(-count // per_run)


def test_nothing_needs_no_runs() -> None:
    assert plan_decoder_runs([], [], 100) == []
    assert plan_vision_runs([], 100) == []
