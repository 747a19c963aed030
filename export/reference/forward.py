"""The one pass of an export through the float32 reference.

Golden inputs, calibration inputs and the corpus that engines are checked with go through it
together, for most of the time of a large model goes into reading its weights and laying them out
for products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trine.export.accuracy.corpus_run import CorpusRun, corpus_inputs
from trine.export.bundle.engine_files import EngineSource
from trine.export.bundle.golden_inputs import golden_inputs
from trine.export.calibration.corpus import built_in_corpus
from trine.export.calibration.inputs import CalibrationSet, CalibrationSize
from trine.export.calibration.run import CalibrationRun, calibration_inputs
from trine.export.quantisation.observer import RangeScan
from trine.export.reference.model import Reference, ReferenceVectors
from trine.runtime.bundle.golden import Golden
from trine.runtime.errors import CheckpointError
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["ReferencePass", "run_reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePass:
    """What came of it.

    Attributes:
        golden: of the bundle.
        calibration: what the calibration inputs came to; None if there were none.
        corpus: to check engines with; None if none was asked for.
    """

    golden: Golden
    calibration: CalibrationRun | None
    corpus: CorpusRun | None


def run_reference(
    source: EngineSource,
    tokenizer: TextTokenizer,
    calibration: CalibrationSet | None,
    corpus_size: CalibrationSize | None,
    step: Callable[[int], None],
) -> ReferencePass:
    """Return what golden inputs, calibration inputs and a corpus come to.

    Args:
        source: of the weights, and the tasks.
        tokenizer: of the bundle.
        calibration: inputs for ranges; None if no engine needs them.
        corpus_size: of the corpus; None for none.
        step: called with 1 after each layer.

    Raises:
        CheckpointError: the model's vectors are zero, or no numbers.
    """
    config = source.checkpoint.config
    preprocessor = Preprocessor(config, tokenizer)
    golden = golden_inputs(config, tokenizer, source.tasks)
    ranging = (
        ()
        if calibration is None
        else tuple(calibration_inputs(config, preprocessor, calibration, source.tasks))
    )
    corpus = None if corpus_size is None else built_in_corpus(corpus_size)
    checking = [] if corpus is None else corpus_inputs(config, preprocessor, corpus, source.tasks)
    scan = RangeScan()
    reference = Reference(source.checkpoint, source.adapters, scan if ranging else None)
    # Weights too large for float32 are said below, in a sentence.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        vectors = reference.run([*golden.inputs, *ranging, *checking], step)
    _check_lengths(source.checkpoint.folder, vectors)
    num_golden, num_ranging = len(golden.inputs), len(ranging)
    run = None
    if ranging:
        singles = [found.single for found in vectors[num_golden : num_golden + num_ranging]]
        run = CalibrationRun(ranging, scan, np.stack(singles))
    return ReferencePass(
        golden=golden.golden(vectors[:num_golden]),
        calibration=run,
        corpus=None
        if corpus is None
        else CorpusRun.of(corpus, source.tasks, vectors[num_golden + num_ranging :]),
    )


def _check_lengths(checkpoint: Path, vectors: Sequence[ReferenceVectors]) -> None:
    """Raise CheckpointError if a vector is no number, or zero: there is none to compare with."""
    for found in vectors:
        lengths = np.append(np.linalg.norm(found.multi, axis=1), np.linalg.norm(found.single))
        if not (lengths > 0.5).all():
            kind = "zero" if np.isfinite(lengths).all() else "not finite"
            raise CheckpointError(
                f"{checkpoint}: vectors of the model are {kind}, for its weights are too "
                f"{'small' if kind == 'zero' else 'large'} for float32; check that the files are "
                "whole and of one model"
            )
