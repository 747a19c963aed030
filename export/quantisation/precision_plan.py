"""Decides each layer's precision by what was asked for and by the observed ranges."""

import dataclasses
from collections.abc import Callable, Mapping, Set

import numpy as np
from numpy.typing import NDArray

from trine.export.graphs.layers import DECODER_ROLES, VISION_ROLES
from trine.export.graphs.ort.linears import GraphPlan
from trine.export.quantisation.fake_quantisation import OrtRounding
from trine.export.quantisation.mixed_plan import FLOAT32, MixedPlan, is_of_decoder
from trine.export.quantisation.observer import ROTATED_ROLES, LinearRange
from trine.export.reference.model import Rounding
from trine.kernels.rotation import ROTATION, rotate_rows
from trine.runtime.bundle.precision import (
    GraphPrecision,
    LinearPrecision,
    Number,
    Precision,
    PrecisionOverride,
    linear_role,
)

__all__ = [
    "FLOAT32",
    "INT8",
    "EnginePlan",
    "choose_outliers",
    "plan_engine",
    "with_wider",
]

INT8 = LinearPrecision(weight="int8", activation="int8", accumulate="int32")
#: 8 bits for layers of `ROTATED_ROLES`.
ROTATED_INT8 = dataclasses.replace(INT8, rotation=ROTATION)
#: Inputs that share a scale in 4-bit weights. 32 loses a third less than 128 and is 10 % larger.
INT4 = LinearPrecision(weight="int4", activation="fp32", block=32)
#: Largest finite float16.
FLOAT16_MAX = 65504.0
#: How many times larger than anything in the scan a value in use may be.
RANGE_MARGIN = 8.0
#: Numbers of input channels that are tried as outliers.
OUTLIER_COUNTS = (4, 8, 16, 32, 64, 128)
#: At most this share of the channels may be outliers; more would cost more than they save.
OUTLIER_SHARE = 0.125
#: Taking channels out must shrink the steps of the rest at least to this, or is not worth its time.
WORTHWHILE_STEP = 0.6


class EnginePlan(MixedPlan[GraphPlan]):
    """The precision of an engine for ONNX Runtime: 4 bits have a step before float32."""

    __slots__ = ()

    @property
    def steps(self) -> tuple[LinearPrecision, ...]:
        four_bits = any(p.weight == "int4" for p in self.decoder.precision.linears.values())
        return (INT8, FLOAT32) if four_bits else (FLOAT32,)

    def _can_override(self, graph: GraphPlan, name: str) -> bool:
        return graph.precision.of(name) != FLOAT32

    def _rounding(self, graph: GraphPlan, names: Set[str] | None) -> Rounding:
        return OrtRounding(graph, names)

    def _overridden(
        self, graph: GraphPlan, reasons: Mapping[str, str], to: LinearPrecision
    ) -> GraphPlan:
        if to == INT8:
            reasons = {n: r for n, r in reasons.items() if graph.precision.of(n).weight == "int4"}
        return with_wider(graph, reasons, to)


def plan_engine(precision: Precision, ranges: Mapping[str, LinearRange]) -> EnginePlan:
    """Return the plan of an engine by its ranges alone.

    Args:
        precision: asked for.
        ranges: of every layer by name, as a scan has them; not read for "fp32".
    """
    number: Number = precision if precision in ("fp16", "bf16") else "fp32"
    # 4 bits are for the decoder's memory; the vision tower is a sixth of it and suffers more.
    vision, decoder = {
        "int8": (INT8, INT8),
        "int4": (INT8, INT4),
    }.get(precision, (LinearPrecision(weight=number, activation=number),) * 2)
    return EnginePlan(
        vision=_plan(VISION_ROLES, vision, number, ranges, lambda name: not is_of_decoder(name)),
        decoder=_plan(DECODER_ROLES, decoder, number, ranges, is_of_decoder),
    )


def _plan(
    roles: tuple[str, ...],
    linear: LinearPrecision,
    number: Number,
    ranges: Mapping[str, LinearRange],
    mine: Callable[[str], bool],
) -> GraphPlan:
    seen = {name: found for name, found in ranges.items() if mine(name)}
    outliers = {}
    if linear.activation == "int8":
        outliers = {
            name: choose_outliers(found, linear_role(name) in ROTATED_ROLES)
            for name, found in seen.items()
        }
    rule = GraphPrecision(
        linears={role: _at(role, linear) for role in roles}, attention=number, swiglu=number
    )
    plan = GraphPlan(
        precision=rule,
        float32_inputs={name: channels for name, channels in outliers.items() if len(channels)},
        importance={name: found.mean_square for name, found in seen.items()},
    )
    wider: dict[str, str] = {}
    if number == "fp16":
        for name, found in seen.items():
            wider |= _overflows(name, found)
    return with_wider(plan, wider, FLOAT32)


def _at(role: str, precision: LinearPrecision) -> LinearPrecision:
    """Return a precision as layers of a role have it: 8 bits are rotated where that pays."""
    return ROTATED_INT8 if precision == INT8 and role in ROTATED_ROLES else precision


def _overflows(name: str, found: LinearRange) -> dict[str, str]:
    """Return what must not be float16, with the reason: layers, and the product before `down`."""
    largest = max(found.input_max, *found.output_max.values())
    if largest * RANGE_MARGIN <= FLOAT16_MAX:
        return {}
    reason = f"values up to {largest:.3g} were seen, too near float16's {FLOAT16_MAX:.0f}"
    names = [name]
    prefix, _, role = name.rpartition(".")
    if role.startswith("down"):
        names.append(f"{prefix}.product")
    elif role == "qkv":
        names.append(f"{prefix}.attended")
    return dict.fromkeys(names, reason)


def with_wider(plan: GraphPlan, names: Mapping[str, str], precision: LinearPrecision) -> GraphPlan:
    """Return the plan with some layers and operations wider.

    Args:
        plan: to change.
        names: of layers and operations, with the reason.
        precision: they get, in place of any they were given before.
    """
    old = plan.precision
    kept = tuple(tensor for tensor in old.wider if tensor.name not in names)
    new = tuple(
        PrecisionOverride(name=name, precision=_at(linear_role(name), precision), reason=reason)
        for name, reason in names.items()
        if linear_role(name) in old.linears or old.of(name) != precision
    )
    rule = dataclasses.replace(old, wider=kept + new)
    channels = {
        name: found
        for name, found in plan.float32_inputs.items()
        if rule.of(name).activation == "int8"
    }
    counts = {name: len(found) for name, found in channels.items()}
    return GraphPlan(
        precision=dataclasses.replace(rule, float32_inputs=counts),
        float32_inputs=channels,
        importance=plan.importance,
    )


def choose_outliers(seen: LinearRange, rotated: bool) -> NDArray[np.int64]:
    """Return int64 [n], the input channels to keep out of 8-bit products, in order; often none.

    A row's step is set by its largest channel, so what matters is how much smaller the rows'
    largest values are without the channels of the largest magnitudes.

    Args:
        seen: of the layer.
        rotated: whether rows are rotated before they are rounded.
    """
    rows = seen.rows.copy()
    order = np.argsort(-seen.channel_max, kind="stable")

    def step(count: int) -> float:
        rows[:, order[:count]] = 0
        rounded = rotate_rows(rows) if rotated else rows
        return float(np.sqrt(np.square(np.abs(rounded).max(axis=1)).mean()))

    best, least = 0, step(0)
    for count in OUTLIER_COUNTS:
        if count > OUTLIER_SHARE * rows.shape[1]:
            break
        found = step(count)
        if found < least * WORTHWHILE_STEP:
            best, least = count, found
    return np.sort(order[:best])
