"""The one pass of an export through the float32 reference.

Golden inputs, calibration inputs and the corpus that engines are checked with go through it
together, for most of the time of a large model goes into reading its weights and laying them out
for products.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trine.export.calibration.corpus import built_in_corpus
from trine.export.calibration.inputs import CalibrationSet, CalibrationSize
from trine.export.calibration_run import CalibrationRun, calibration_inputs
from trine.export.corpus_run import CorpusRun, corpus_inputs
from trine.export.engine_files import EngineSource
from trine.export.golden_inputs import golden_inputs
from trine.export.range_scan import RangeScan
from trine.export.reference import Reference
from trine.runtime.golden import Golden
from trine.runtime.preparation import Preparation
from trine.runtime.tokenizer import TextTokenizer

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
    """
    config = source.checkpoint.config
    preparation = Preparation(config, tokenizer)
    golden = golden_inputs(config, tokenizer, source.tasks)
    ranging = (
        ()
        if calibration is None
        else tuple(calibration_inputs(config, preparation, calibration, source.tasks))
    )
    corpus = None if corpus_size is None else built_in_corpus(corpus_size)
    checking = [] if corpus is None else corpus_inputs(config, preparation, corpus, source.tasks)
    scan = RangeScan()
    reference = Reference(source.checkpoint, source.adapters, scan if ranging else None)
    vectors = reference.run([*golden.inputs, *ranging, *checking], step)
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
