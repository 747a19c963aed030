from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.inference.batch_planner import BatchCosts, Load, plan_decoder_batches
from trine.runtime.serving.scheduler.batching import (
    LOSS,
    LOSS_OF_FEW,
    SHORT_TURNS,
    BatchBudget,
    Plan,
    Turns,
    fewest,
    is_short,
    leading,
    plan_batch,
)
from trine.runtime.serving.scheduler.forward_cost import ForwardCost

#: Of an engine whose attention knows where sequences end, and of one that pads.
COSTS, PADDED = BatchCosts(batch=16, slot_pair=0), BatchCosts(batch=16, slot_pair=5e-2)
BUDGET = BatchBudget(tokens=100, patches=200, short_tokens=20)

short_loads = st.builds(Load, st.integers(1, 20), st.just(0), st.sampled_from("ab"))
long_loads = st.builds(Load, st.integers(21, 300), st.integers(0, 400), st.sampled_from("ab"))
lanes = st.tuples(st.lists(short_loads, max_size=30), st.lists(long_loads, max_size=30)).filter(any)


def members(plan: Plan, short: Sequence[Load], long: Sequence[Load]) -> list[Load]:
    return [long[i] for i in plan.long] + [short[i] for i in plan.short]


turns_so_far = st.builds(Turns, st.integers(0, SHORT_TURNS), st.integers(0, 100))
costs = st.none() | st.builds(ForwardCost, st.floats(0, 1), st.floats(0, 0.1))


@given(lanes, turns_so_far, costs)
def test_a_run_is_within_its_budget_and_of_one_group(
    waiting: tuple[list[Load], list[Load]], turns: Turns, cost: ForwardCost | None
) -> None:
    run = members(plan_batch(*waiting, BUDGET, COSTS, turns, cost), *waiting)
    assert run
    assert len({load.group for load in run}) == 1
    if len(run) > 1:
        assert sum(load.tokens for load in run) <= BUDGET.tokens
        assert max(load.tokens for load in run) * len(run) <= 2 * BUDGET.tokens
        if sum(load.patches > 0 for load in run) > 1:
            assert sum(load.patches for load in run) <= BUDGET.patches


@given(lanes, turns_so_far, costs)
def test_the_head_of_a_lane_is_always_in_the_run(
    waiting: tuple[list[Load], list[Load]], turns: Turns, cost: ForwardCost | None
) -> None:
    plan = plan_batch(*waiting, BUDGET, COSTS, turns, cost)
    assert (plan.long or plan.short)[0] == 0
    assert len(set(plan.short)) == len(plan.short)
    assert len(set(plan.long)) == len(plan.long)


@given(lanes, costs)
def test_all_items_are_run_once(
    waiting: tuple[list[Load], list[Load]], cost: ForwardCost | None
) -> None:
    short, long = map(list, waiting)
    turns, num_run = Turns(), 0
    while short or long:
        plan = plan_batch(short, long, BUDGET, COSTS, turns, cost)
        num_run += len(plan.short) + len(plan.long)
        short = [load for i, load in enumerate(short) if i not in plan.short]
        long = [load for i, load in enumerate(long) if i not in plan.long]
        turns = plan.turns
    assert num_run == len(waiting[0]) + len(waiting[1])


def test_a_short_run_has_no_long_items() -> None:
    plan = plan_batch([Load(5, 0, "a")], [Load(30, 0, "a")], BUDGET, COSTS)
    assert (plan.short, plan.long) == ((0,), ())


def test_a_long_item_gets_its_turn_however_many_short_ones_come() -> None:
    for cost, runs_a_turn in ((None, 1), (ForwardCost(1e-9, 1.0), 5)):
        turns, runs = Turns(), []
        for _ in range(2 * (SHORT_TURNS * runs_a_turn + 1)):
            plan = plan_batch(
                [Load(20, 0, "a")] * 9, [Load(90, 0, "a")] * 9, BUDGET, COSTS, turns, cost
            )
            turns = plan.turns
            runs.append("long" if plan.long else "short")
        assert runs == 2 * (["short"] * SHORT_TURNS * runs_a_turn + ["long"])


def test_a_short_item_waits_for_one_long_run_at_most() -> None:
    plan = plan_batch([Load(5, 0, "a")], [Load(90, 0, "b")], BUDGET, COSTS, Turns(SHORT_TURNS))
    assert plan.long == (0,)
    assert plan_batch([Load(5, 0, "a")], [Load(90, 0, "b")], BUDGET, COSTS, plan.turns).short == (
        0,
    )


def test_short_items_fill_a_long_run() -> None:
    plan = plan_batch(
        [Load(5, 0, "a"), Load(5, 0, "b")], [Load(60, 0, "a")], BUDGET, COSTS, Turns(SHORT_TURNS)
    )
    assert (plan.short, plan.long) == ((0,), (0,))


def test_turns_are_counted_only_while_long_items_wait() -> None:
    assert plan_batch([Load(5, 0, "a")], [], BUDGET, COSTS, Turns(3)).turns == Turns()


@pytest.mark.parametrize(
    ("load", "short"),
    [
        (Load(20, 0, "a"), True),
        (Load(21, 0, "a"), False),
        (Load(10, 40, "a"), True),
        (Load(10, 44, "a"), False),
    ],
)
def test_a_image_counts_by_the_time_its_patches_take(load: Load, short: bool) -> None:
    assert is_short(load.tokens, load.patches, BUDGET) is short


def test_patches_count_for_how_long_a_run_is() -> None:
    short = [Load(2, 64, "a")] + [Load(2, 0, "a")] * 9
    assert plan_batch(short, [], BUDGET, COSTS, cost=ForwardCost(1.0, 1.0)).short == (0,)


def test_without_a_known_cost_all_that_fits_is_one_run() -> None:
    assert leading([5] * 7, None) == 7


def test_items_go_one_by_one_where_a_run_itself_costs_nothing() -> None:
    assert leading([30] * 40, ForwardCost(0.0, 0.1)) == 1


def test_items_go_together_where_tokens_cost_nothing() -> None:
    assert leading([30] * 40, ForwardCost(0.1, 0.0)) == 40


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=200),
    st.floats(1e-6, 1.0),
    st.floats(1e-6, 1e-2),
)
def test_short_runs_give_little_throughput_away(sizes: list[int], run: float, token: float) -> None:
    cost, left, spent = ForwardCost(run, token), list(sizes), 0.0
    while left:
        count = leading(left, cost)
        assert 1 <= count <= len(left)
        spent += cost.run + cost.token * sum(left[:count])
        left = left[count:]
    together = cost.run + cost.token * sum(sizes)
    # Some ten times `LOSS`, while few are left; then the engine has time to spare.
    assert spent <= together * (1 + LOSS + 4 * LOSS_OF_FEW / len(sizes) ** 0.5)


def test_answers_come_earlier_in_short_runs() -> None:
    cost, sizes = ForwardCost(0.001, 0.001), [30] * 16

    def mean_end(counts: list[int]) -> float:
        now, ends, items = 0.0, [], list(sizes)
        for count in counts:
            now += cost.run + cost.token * sum(items[:count])
            ends += [now] * count
            items = items[count:]
        return sum(ends) / len(ends)

    chosen, left = [], list(sizes)
    while left:
        chosen.append(leading(left, cost))
        left = left[chosen[-1] :]
    assert mean_end(chosen) < 0.6 * mean_end([len(sizes)])


@given(
    st.lists(st.integers(257, 4000), min_size=1, max_size=30),
    st.floats(1e-6, 1.0),
    st.floats(1e-6, 1e-2),
)
def test_long_runs_are_the_smallest_that_give_little_throughput_away(
    sizes: list[int], run: float, token: float
) -> None:
    cost = ForwardCost(run, token)

    def a_token(count: int) -> float:
        tokens = sum(sizes[:count])
        return (cost.run + cost.token * tokens) / tokens

    most = (1 + LOSS) * a_token(len(sizes)) * (1 + 1e-9)
    count = fewest(sizes, cost)
    assert 1 <= count <= len(sizes)
    assert a_token(count) <= most
    assert count == 1 or a_token(count - 1) > most * (1 - 2e-9)


def test_a_long_item_is_run_alone_where_company_gains_nothing() -> None:
    long = [Load(40, 0, "a")] * 2
    assert plan_batch([], long, BUDGET, COSTS, cost=ForwardCost(0.1, 1.0)).long == (0,)
    assert plan_batch([], long, BUDGET, COSTS, cost=ForwardCost(100.0, 1.0)).long == (0, 1)
    assert plan_batch([], long, BUDGET, COSTS).long == (0, 1), "the cost is unknown"


def test_short_items_still_fill_a_run_of_one_long_item() -> None:
    plan = plan_batch(
        [Load(5, 0, "a")] * 3,
        [Load(40, 0, "a")] * 2,
        BUDGET,
        COSTS,
        Turns(SHORT_TURNS),
        ForwardCost(0.1, 1.0),
    )
    assert (plan.short, plan.long) == ((0, 1, 2), (0,))


def test_a_batch_is_one_that_the_planner_of_direct_encoding_would_allow() -> None:
    lengths = [20, 20, 19, 2]
    short = [Load(tokens, 0, "a") for tokens in lengths]
    assert plan_batch(short, [], BUDGET, COSTS).short == (0, 1, 2, 3)
    # The short text's slots would cost more than another batch.
    assert plan_batch(short, [], BUDGET, PADDED).short == (0, 1, 2)
    direct = plan_decoder_batches(lengths, ["a"] * 4, BUDGET.tokens, PADDED)
    assert direct == [[0, 1, 2], [3]]
