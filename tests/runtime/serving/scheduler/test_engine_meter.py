import pytest

from trine.runtime.serving.scheduler.engine_meter import EngineBatch, Speed


def run(units: int, seconds: float) -> EngineBatch:
    return EngineBatch(graph="decoder", units=units, slots=units, items=1, seconds=seconds)


def test_nothing_is_predicted_before_a_run() -> None:
    assert Speed(1000).seconds(1000, 1000) == 0.0


def test_work_takes_as_long_a_token_as_it_did() -> None:
    speed = Speed(1000)
    speed.add(run(100, 2.0))
    assert speed.seconds(50, 0) == pytest.approx(1.0)
    assert speed.seconds(50, 999) == pytest.approx(1.0), "no image was seen yet"


def test_what_a_batch_takes_beside_its_graphs_counts_too() -> None:
    speed = Speed(1000)
    speed.add(run(100, 2.0))
    speed.finish(3.0)
    assert speed.seconds(100, 0) == pytest.approx(3.0)
    for _ in range(200):
        speed.add(run(100, 2.0))
        speed.finish(2.0)
    assert speed.seconds(100, 0) == pytest.approx(2.0, rel=0.01)


def test_the_cost_of_a_run_is_known_after_some_of_two_sizes() -> None:
    speed = Speed(1000)
    for units in (10, 10, 10, 100, 100):
        speed.add(run(units, 1.0))
        speed.finish(1.0 + units / 10)
    assert speed.cost() is None
    speed.add(run(100, 1.0))
    speed.finish(11.0)
    cost = speed.cost()
    assert cost is not None
    assert (cost.run, cost.token) == (pytest.approx(1.0), pytest.approx(0.1))


def test_batches_of_several_runs_say_nothing_of_a_runs_cost() -> None:
    speed = Speed(1000)
    for units in (10, 100) * 5:
        speed.add(run(units, 1.0))
        speed.add(run(units, 1.0))
        speed.finish(3.0)
    assert speed.cost() is None


def known(cost_run: float = 1.0, cost_token: float = 0.1) -> Speed:
    speed = Speed(1000)
    for units in (10, 100) * 3:
        seconds = cost_run + cost_token * units
        speed.add(run(units, seconds))
        speed.finish(seconds)
    return speed


def test_many_small_requests_are_not_predicted_to_take_as_long_as_each_one_alone() -> None:
    speed = known()
    for _ in range(1000):  # queries that came one by one: 10 tokens in 2 s
        speed.add(run(10, 2.0))
        speed.finish(2.0)
    assert speed.cost() is None, "so long ago that large batches are to be tried again"
    assert speed.seconds(100, 0) == pytest.approx(11.0), "not 20"
    assert speed.seconds(1000, 0) == pytest.approx(110.0), "as much a token as the largest known"
    assert speed.seconds(2050, 0) == pytest.approx(226.0), "three batches"


def test_large_batches_are_not_taken_for_free_where_the_known_ones_were_held_up() -> None:
    speed = Speed(1000)
    for units, seconds in ((10, 3.0), (100, 2.0)) * 3:
        speed.add(run(units, seconds))
        speed.finish(seconds)
    assert speed.seconds(1000, 0) > 10 * 2.0


def test_a_machine_that_became_slower_is_expected_to_stay_so() -> None:
    speed = known()
    for _ in range(60):
        speed.add(run(10, 6.0))
        speed.finish(6.0)
    assert speed.seconds(1000, 0) > 2 * 101.0


def test_patches_cost_what_they_did_beside_the_tokens() -> None:
    speed = known()
    speed.add(EngineBatch(graph="vision", units=100, slots=100, items=0, seconds=5.0))
    speed.add(run(10, 2.0))
    speed.finish(7.0)
    assert speed.seconds(10, 200) == pytest.approx(12.0)


def test_what_was_timed_at_the_start_predicts_but_does_not_plan() -> None:
    speed = Speed(1000)
    speed.begin_with([run(10, 2.0), run(100, 11.0)] * 3)
    assert speed.seconds(100, 0) == pytest.approx(11.0)
    assert speed.cost() is None
    for _ in range(60):
        speed.add(run(10, 4.0))
        speed.finish(4.0)
    assert speed.seconds(100, 0) == pytest.approx(22.0, rel=0.01)
