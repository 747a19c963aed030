"""accuracy thresholds: each number that is too low is named with what is asked."""

import pytest

from trine.export.accuracy.thresholds import (
    TARGETS,
    THRESHOLDS,
    ThresholdCheck,
    asked_threshold,
    loss_scale,
)


@pytest.mark.parametrize(
    ("mean", "worst", "ranking", "said"),
    [
        (0.9995, 0.999, 0.995, ""),
        (0.9985, 0.998, 0.995, "mean cosine 0.99850, at least 0.999 is asked"),
        (0.9995, 0.99, 0.995, "worst cosine 0.99000, at least 0.995 is asked"),
        (0.9995, 0.999, 0.98, "MaxSim rankings with nDCG@10 0.9800, at least 0.99 is asked"),
    ],
)
def test_int8_is_held_against_each_number(
    mean: float, worst: float, ranking: float, said: str
) -> None:
    problems = ThresholdCheck.of(
        THRESHOLDS["int8"], [1.0, mean], [1.0, worst], [1.0, ranking]
    ).problems
    assert problems == ((said,) if said else ())


def test_rankings_count_only_where_something_was_ranked() -> None:
    assert ThresholdCheck.of(THRESHOLDS["int8"], [0.9995], [0.999]).problems == ()


def test_plans_aim_within_their_floors() -> None:
    for precision, target in TARGETS.items():
        threshold = THRESHOLDS[precision]
        assert target.mean <= 1 - threshold.mean_cosine
        assert target.worst <= 1 - threshold.worst_cosine


def test_a_floor_that_is_asked_for_moves_all_its_numbers_alike() -> None:
    assert asked_threshold("int8", None) == THRESHOLDS["int8"]
    threshold = asked_threshold("int8", 0.995)
    assert (threshold.mean_cosine, threshold.worst_cosine, threshold.ranking) == (
        0.995,
        0.975,
        0.95,
    )
    assert loss_scale("int8", 0.9999) == pytest.approx(0.1)
    assert asked_threshold("int4", 0.5).ranking == 0


def test_float32_keeps_its_floor_whatever_is_asked() -> None:
    assert asked_threshold("fp32", 0.9) == THRESHOLDS["fp32"]
