"""Plans both TensorRT graphs: 4, 8 or 16 bits where the vectors allow it, wider where they do not.

What 16 bits lose is mended first, so that fewer are tried only on layers that bear 16. Four bits
are for the decoder's weights, beside a vision tower in 8. Attention
is never float32, for which there is no fused kernel: where bfloat16 is too coarse for it and values
are small enough, it is float16, and where values are too large for float16, bfloat16.
"""

import dataclasses
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from trine.export.accuracy.thresholds import TARGETS
from trine.export.graphs.trt.precision import (
    Half,
    TensorRtPrecision,
    TrtPlan,
    WeightQuantisation,
    uniform_plan,
)
from trine.export.quantisation.fake_quantisation import BothStacks
from trine.export.quantisation.mixed_plan import FLOAT32, MixedPlan, of_stack
from trine.export.quantisation.observer import LinearRange
from trine.export.quantisation.plan_refinement import Probing, RefinedPlan, refine_plan
from trine.export.quantisation.precision_plan import (
    FLOAT16_MAX,
    RANGE_MARGIN,
    plan_engine,
)
from trine.export.quantisation.trt.calibration import quantise_layers
from trine.export.quantisation.trt.fake_quantisation import TrtRounding
from trine.export.reference.model import Rounding
from trine.runtime.bundle.precision import LinearPrecision, Precision, PrecisionOverride

__all__ = ["QUANTISED", "THRESHOLD_OF", "TrtPlans", "plan_halves", "plan_trt"]

#: Precisions that have layers in fewer than 16 bits.
QUANTISED: tuple[TensorRtPrecision, ...] = ("int8", "fp8", "int4")
FLOAT16 = LinearPrecision(weight="fp16", activation="fp16")
#: Inputs that share a scale in 4-bit weights, the first that divides their number: TensorRT
#: documents blocks of 64 and 128, of which the smaller ones lose less.
INT4_BLOCKS = (64,)

#: Whose accuracy threshold each precision must keep: 8 bits are 8 bits.
THRESHOLD_OF: dict[TensorRtPrecision, Precision] = {
    "bf16": "bf16",
    "fp16": "fp16",
    "int8": "int8",
    "fp8": "int8",
    "int4": "int4",
}
#: Share of the target that the 16-bit layers beside narrower ones may use up.
HALF_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtPlans(MixedPlan[TrtPlan]):
    """The precision of TensorRT's graphs: fewer bits have a step of 16 before float32.

    Attributes:
        fits_fp16: attention operations whose values are small enough for float16.
    """

    fits_fp16: Set[str] = field(default_factory=frozenset)

    @property
    def num_quantised(self) -> int:
        """How many layers have fewer than 16 bits."""
        return sum(len(p.quantised) + len(p.weight_only) for p in (self.vision, self.decoder))

    @property
    def steps(self) -> tuple[LinearPrecision, ...]:
        half = LinearPrecision(weight=self.decoder.half, activation=self.decoder.half)
        return (half, FLOAT32) if self.num_quantised else (FLOAT32,)

    def _can_override(self, graph: TrtPlan, name: str) -> bool:
        if graph.is_quantised(name):
            return True
        number = graph.precision.of(name).activation
        if name.endswith(".attended"):
            return number == "bf16" and name in self.fits_fp16
        return number != "fp32"

    def dithered(self, seed: int) -> Rounding:
        """Return what rounds everything as planned, with other rounding errors for each seed."""
        dither = np.random.default_rng(seed)
        return BothStacks(
            vision=TrtRounding(self.vision, None, dither),
            decoder=TrtRounding(self.decoder, None, dither),
        )

    def _rounding(self, graph: TrtPlan, names: Set[str] | None) -> Rounding:
        return TrtRounding(graph, names)

    def _overridden(
        self, graph: TrtPlan, reasons: Mapping[str, str], to: LinearPrecision
    ) -> TrtPlan:
        narrow = {name: reason for name, reason in reasons.items() if self.can_override(name)}
        tensors = []
        for name, reason in narrow.items():
            attended = name.endswith(".attended")
            if attended or to == FLOAT32:
                precision = FLOAT16 if attended else FLOAT32
                tensors.append(PrecisionOverride(name=name, precision=precision, reason=reason))
        known = {tensor.name for tensor in tensors}
        kept = tuple(tensor for tensor in graph.precision.wider if tensor.name not in known)
        return dataclasses.replace(
            graph,
            precision=dataclasses.replace(graph.precision, wider=(*kept, *tensors)),
            quantised={n: how for n, how in graph.quantised.items() if n not in reasons},
            weight_only={n: how for n, how in graph.weight_only.items() if n not in reasons},
        )

    def quantise(self, kind: str, ranges: Mapping[str, LinearRange]) -> "TrtPlans":
        """Return the plans with every layer narrower that has 16 bits and whose inputs fit."""
        found = quantise_layers(ranges, "fp8" if kind == "fp8" else "int8")

        def of(plan: TrtPlan, decoder: bool) -> TrtPlan:
            mine = {
                name: how
                for name, how in of_stack(found, decoder).items()
                if plan.precision.of(name).activation != "fp32"
            }
            return dataclasses.replace(plan, quantised=mine)

        decoder = self._in_blocks(ranges) if kind == "int4" else of(self.decoder, True)
        return dataclasses.replace(self, vision=of(self.vision, False), decoder=decoder)

    def _in_blocks(self, ranges: Mapping[str, LinearRange]) -> TrtPlan:
        """Return the decoder's plan with the weights in 4 bits of every layer that has 16."""
        weight_only = {}
        for name, seen in of_stack(ranges, decoder=True).items():
            num_in = len(seen.channel_max)
            block = next((size for size in INT4_BLOCKS if num_in % size == 0), None)
            has_half = self.decoder.precision.of(name).activation != "fp32"
            if block is not None and has_half:
                weight_only[name] = WeightQuantisation(block=block, importance=seen.mean_square)
        return dataclasses.replace(self.decoder, weight_only=weight_only)


def plan_trt(
    precision: TensorRtPrecision,
    ranges: Mapping[str, LinearRange],
    probing: Probing,
    tightness: float,
    step: Callable[[int], None],
) -> RefinedPlan[TrtPlans]:
    """Return the plans of a precision, and their loss.

    Args:
        precision: asked for; narrower graphs compute what is not quantised in bfloat16.
        ranges: of every layer by name.
        probing: how plans are tried.
        tightness: of the target; 1 for the usual one, smaller for less loss.
        step: called with 1 after each layer of the reference.
    """
    target = TARGETS[THRESHOLD_OF[precision]].times(tightness)
    plans = plan_halves("fp16" if precision == "fp16" else "bf16", ranges)
    if precision not in QUANTISED:
        return refine_plan(plans, probing, target, step)
    halves = refine_plan(plans, probing, target.times(HALF_SHARE), step)
    return refine_plan(halves.plan.quantise(precision, ranges), probing, target, step)


def plan_halves(half: Half, ranges: Mapping[str, LinearRange]) -> TrtPlans:
    """Return the plans in one 16-bit format, by the ranges alone."""
    uniform = uniform_plan(half)
    fits = frozenset(
        f"{name.removesuffix('.qkv')}.attended"
        for name, seen in ranges.items()
        if name.endswith(".qkv") and max(seen.output_max.values()) * RANGE_MARGIN <= FLOAT16_MAX
    )
    if half != "fp16":
        return TrtPlans(vision=uniform, decoder=uniform, fits_fp16=fits)
    checked = plan_engine("fp16", ranges)
    return TrtPlans(
        vision=_with_fused_attention(uniform, checked.vision.precision.wider),
        decoder=_with_fused_attention(uniform, checked.decoder.precision.wider),
        fits_fp16=fits,
    )


def _with_fused_attention(plan: TrtPlan, wider: tuple[PrecisionOverride, ...]) -> TrtPlan:
    """Return the plan with exceptions, those of attention in bfloat16 in place of float32."""
    other = LinearPrecision(weight="bf16", activation="bf16")
    tensors = tuple(
        dataclasses.replace(tensor, precision=other)
        if tensor.name.endswith(".attended")
        else tensor
        for tensor in wider
    )
    return dataclasses.replace(plan, precision=dataclasses.replace(plan.precision, wider=tensors))
