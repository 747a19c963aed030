"""Gathers what the plans of all engines of an export are made from and held to."""

from dataclasses import dataclass

from trine.export.accuracy.thresholds import AccuracyThreshold, asked_threshold, loss_scale
from trine.export.bundle.engine_files import EngineSource
from trine.export.calibration.run import (
    CalibrationRun,
    affordable_size,
    choose_affordable,
    max_probe_tokens,
)
from trine.export.quantisation.plan_refinement import Probing
from trine.export.reference.forward import ReferencePass
from trine.export.reference.model import Reference
from trine.runtime.bundle.precision import Precision

__all__ = ["TIGHTNESS", "Planning"]

#: Targets of the plans that are tried for an engine that comes out below its threshold: inputs that
#: were not tried in planning may lose much more than those that were.
TIGHTNESS = (1.0, 0.1, 0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """The same for all engines of an export.

    Attributes:
        source: of the weights.
        reference: what the float32 reference made of golden inputs, of calibration inputs unless
            only float32 is to be made, and of the corpus if engines are to be checked.
        allow_below_threshold: keep engines that are below their accuracy threshold.
        min_cosine: in place of the thresholds' mean cosine; None for the thresholds' own.
    """

    source: EngineSource
    reference: ReferencePass
    allow_below_threshold: bool
    min_cosine: float | None = None

    @property
    def is_large(self) -> bool:
        """Whether fake quantisation takes so long that it is done as little as can be."""
        return affordable_size(self.source.checkpoint.config) == "brief"

    def scale(self, precision: Precision) -> float:
        """Return by what the loss that plans aim at is multiplied, for what was asked for."""
        return loss_scale(precision, self.min_cosine)

    def threshold(self, precision: Precision) -> AccuracyThreshold:
        """Return how near to float32 an engine has to be."""
        return asked_threshold(precision, self.min_cosine)

    def probing(self, calibration: CalibrationRun) -> Probing:
        """Return the inputs that plans are tried on, of those ranges were made from."""
        model = self.source.checkpoint.config
        chosen = choose_affordable(calibration.inputs, model)
        return Probing(
            reference=Reference(self.source.checkpoint, self.source.adapters),
            model=model,
            inputs=[calibration.inputs[index] for index in chosen],
            singles=calibration.singles[list(chosen)],
            max_probe_tokens=max_probe_tokens(model),
        )
