"""Planned graphs keep their thresholds, on usual checkpoints and on those made hard to round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trine.export.accuracy.thresholds import THRESHOLDS
from trine.export.checkpoint.source import resolve_source
from trine.export.graphs.trt.precision import TensorRtPrecision
from trine.export.quantisation.trt.graph_plans import THRESHOLD_OF, TrtPlans, plan_halves
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import HARD_TRAITS, SampleSpec, changed_spec
from trine.export.trt.lint import lint_file

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "golden":
        return GOLDEN
    if request.param == "nano":
        return resolve_source("nano", None).folder
    traits = HARD_TRAITS if request.param == "all" else (request.param,)
    folder = tmp_path / f"hard-{request.param}"
    write_sample_checkpoint(changed_spec(SampleSpec.tiny(), {"hard": traits}), folder)
    return folder


def _marks(case: tuple[str, str]) -> list[pytest.MarkDecorator]:
    if case in {("swiglu", "fp16"), ("all", "fp16"), ("golden", "int4")}:
        return []
    return [pytest.mark.slow]


def _cases() -> list[Any]:
    return [
        pytest.param(name, precision, marks=_marks((name, precision)))
        for name in ("golden", "nano", *HARD_TRAITS, "all")
        for precision in ("bf16", "fp16", "int8", "fp8", "int4")
    ]


@pytest.mark.parametrize(("source", "precision"), _cases(), indirect=["source"])
def test_vectors_of_planned_graphs_keep_their_floor(
    source: Path,
    precision: TensorRtPrecision,
    plan: Callable[..., Any],
    agree: Callable[..., Any],
) -> None:
    threshold = THRESHOLDS[THRESHOLD_OF[precision]]
    planned = plan(source, precision)
    if planned.below:  # then it is not written; the checkpoints that are not hard must be
        assert source.name.startswith("hard-")
        pytest.skip(f"refused: {planned.below[0]}")
    plans: TrtPlans = planned.plans
    sms = (89, 120) if precision == "fp8" else (86, 89, 120)
    for mode in ("merged", "runtime"):
        found = agree(source, plans, mode)
        singles = found.singles
        print(
            f"{source.name} {precision} {mode}: mean {singles.mean():.6f}, worst "
            f"{singles.min():.6f}, {plans.num_quantised} in fewer bits, {len(plans.wider)} wider"
        )
        assert all(lint_file(graph, sms) == [] for graph in found.graphs.values())
        assert singles.min() >= threshold.worst_cosine
        assert singles.mean() >= threshold.mean_cosine


def test_each_stack_is_widened_where_its_own_layers_are_named() -> None:
    plans = plan_halves("bf16", {})
    wide = plans.overridden({"blocks.1.mlp.down_proj": "why", "layers.2.self_attn.o": "why"}, 0)
    assert [tensor.name for tensor in wide.vision.precision.wider] == ["blocks.1.mlp.down_proj"]
    assert [tensor.name for tensor in wide.decoder.precision.wider] == ["layers.2.self_attn.o"]
