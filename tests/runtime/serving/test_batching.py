from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.serving.batching import (
    SHORT_TURNS,
    BatchBudget,
    Load,
    Plan,
    is_short,
    plan_batch,
)

BUDGET = BatchBudget(tokens=100, patches=200, short_tokens=20)

short_loads = st.builds(Load, st.integers(1, 20), st.just(0), st.sampled_from("ab"))
long_loads = st.builds(Load, st.integers(21, 300), st.integers(0, 400), st.sampled_from("ab"))
lanes = st.tuples(st.lists(short_loads, max_size=30), st.lists(long_loads, max_size=30)).filter(any)


def members(plan: Plan, short: Sequence[Load], long: Sequence[Load]) -> list[Load]:
    return [long[i] for i in plan.long] + [short[i] for i in plan.short]


@given(lanes, st.integers(0, SHORT_TURNS))
def test_a_run_is_within_its_budget_and_of_one_group(
    waiting: tuple[list[Load], list[Load]], turns: int
) -> None:
    run = members(plan_batch(*waiting, BUDGET, turns), *waiting)
    assert run
    assert len({load.group for load in run}) == 1
    if len(run) > 1:
        assert sum(load.tokens for load in run) <= BUDGET.tokens
        assert max(load.tokens for load in run) * len(run) <= 2 * BUDGET.tokens
        if sum(load.patches > 0 for load in run) > 1:
            assert sum(load.patches for load in run) <= BUDGET.patches


@given(lanes, st.integers(0, SHORT_TURNS))
def test_the_head_of_a_lane_is_always_in_the_run(
    waiting: tuple[list[Load], list[Load]], turns: int
) -> None:
    plan = plan_batch(*waiting, BUDGET, turns)
    assert (plan.long or plan.short)[0] == 0
    assert len(set(plan.short)) == len(plan.short)
    assert len(set(plan.long)) == len(plan.long)


@given(lanes)
def test_all_items_are_run_once(waiting: tuple[list[Load], list[Load]]) -> None:
    short, long = map(list, waiting)
    turns = num_run = 0
    while short or long:
        plan = plan_batch(short, long, BUDGET, turns)
        num_run += len(plan.short) + len(plan.long)
        short = [load for i, load in enumerate(short) if i not in plan.short]
        long = [load for i, load in enumerate(long) if i not in plan.long]
        turns = plan.short_turns
    assert num_run == len(waiting[0]) + len(waiting[1])


def test_a_short_run_has_no_long_items() -> None:
    plan = plan_batch([Load(5, 0, "a")], [Load(30, 0, "a")], BUDGET)
    assert (plan.short, plan.long) == ((0,), ())


def test_a_long_item_gets_its_turn_however_many_short_ones_come() -> None:
    turns, runs = 0, []
    for _ in range(2 * SHORT_TURNS + 2):
        plan = plan_batch([Load(20, 0, "a")] * 9, [Load(90, 0, "a")] * 9, BUDGET, turns)
        turns = plan.short_turns
        runs.append("long" if plan.long else "short")
    assert runs == ["short"] * SHORT_TURNS + ["long"] + ["short"] * SHORT_TURNS + ["long"]


def test_a_short_item_waits_for_one_long_run_at_most() -> None:
    plan = plan_batch([Load(5, 0, "a")], [Load(90, 0, "b")], BUDGET, SHORT_TURNS)
    assert plan.long == (0,)
    assert plan_batch([Load(5, 0, "a")], [Load(90, 0, "b")], BUDGET, plan.short_turns).short == (0,)


def test_short_items_fill_a_long_run() -> None:
    plan = plan_batch([Load(5, 0, "a"), Load(5, 0, "b")], [Load(60, 0, "a")], BUDGET, SHORT_TURNS)
    assert (plan.short, plan.long) == ((0,), (0,))


def test_turns_are_counted_only_while_long_items_wait() -> None:
    assert plan_batch([Load(5, 0, "a")], [], BUDGET, 3).short_turns == 0


@pytest.mark.parametrize(
    ("load", "short"),
    [
        (Load(20, 0, "a"), True),
        (Load(21, 0, "a"), False),
        (Load(10, 40, "a"), True),
        (Load(10, 44, "a"), False),
    ],
)
def test_a_picture_counts_by_the_time_its_patches_take(load: Load, short: bool) -> None:
    assert is_short(load, BUDGET) is short
