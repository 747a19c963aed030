"""The best time a device allows: each stage takes as long as its operations or its bytes, whichever
is longer; nothing else costs anything.

Roofline model: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
for multicore architectures", 2009.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from roofline.devices import DeviceSheet, RatePrecision
from roofline.stages import Stage

__all__ = ["WIDTHS", "Prediction", "StageTime", "predict", "stage_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Bytes of one value in a linear layer.

    Attributes:
        weight: stored.
        operand: an activation as the product reads it.
        result: an activation as it is written.
    """

    weight: int
    operand: int
    result: int


#: 8-bit products read 8 bits and write 16.
WIDTHS: Mapping[RatePrecision, Widths] = {
    "fp32": Widths(weight=4, operand=4, result=4),
    "tf32": Widths(weight=4, operand=4, result=4),
    "bf16": Widths(weight=2, operand=2, result=2),
    "fp8": Widths(weight=1, operand=1, result=2),
    "int8": Widths(weight=1, operand=1, result=2),
}
#: What attention computes in, for each precision of the linear layers: 8-bit engines keep 16 bits.
ATTENTION: Mapping[RatePrecision, RatePrecision] = {
    "fp32": "fp32",
    "tf32": "tf32",
    "bf16": "bf16",
    "fp8": "bf16",
    "int8": "bf16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """The best time of one stage.

    Attributes:
        stage: which.
        num_bytes: moved to and from the device's memory.
        compute_s, memory_s: seconds its operations and its bytes take alone.
    """

    stage: Stage
    num_bytes: int
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        return max(self.compute_s, self.memory_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The best time of a run; a prediction, not a measurement."""

    device: str
    precision: RatePrecision
    stages: tuple[StageTime, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_share(self) -> float:
        """Part of the time in stages that wait for memory."""
        waiting = (s.seconds for s in self.stages if s.memory_s > s.compute_s)
        return sum(waiting) / self.seconds


def predict(
    stages: Iterable[Stage], device: DeviceSheet, precision: RatePrecision
) -> Prediction | None:
    """Return the best time of a run on `device`; None if it lacks the precision or the memory.

    Args:
        stages: of the run.
        device: its data sheet.
        precision: of the linear layers.
    """
    parts = tuple(stages)
    weight_bytes = sum(stage.weights for stage in parts) * WIDTHS[precision].weight
    if precision not in device.tera_operations or weight_bytes > device.memory * 1e9:
        return None
    times = []
    for stage in parts:
        rate = device.tera_operations[_rate_precision(stage, precision)]
        num_bytes = stage_bytes(stage, precision)
        times.append(
            StageTime(
                stage=stage,
                num_bytes=num_bytes,
                compute_s=stage.operations / (rate * 1e12),
                memory_s=num_bytes / (device.bandwidth * 1e9),
            )
        )
    return Prediction(device=device.name, precision=precision, stages=tuple(times))


def stage_bytes(stage: Stage, precision: RatePrecision) -> int:
    """Return the bytes a stage moves: weights, inputs and outputs once each."""
    if stage.kind == "linear":
        widths = WIDTHS[precision]
    else:
        widths = WIDTHS[_rate_precision(stage, precision)]
    return (
        stage.weights * widths.weight
        + stage.inputs * widths.operand
        + stage.outputs * widths.result
    )


def _rate_precision(stage: Stage, precision: RatePrecision) -> RatePrecision:
    if stage.kind == "linear":
        return precision
    return ATTENTION[precision] if stage.kind == "attention" else "fp32"
