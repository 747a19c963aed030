"""Measures an exported engine against the reference, and writes what was found into the bundle."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trine.export.accuracy.corpus_run import CorpusRun
from trine.export.accuracy.low_memory_engine import LowMemoryEngine
from trine.export.accuracy.rank_agreement import (
    Agreement,
    CorpusVectors,
    Vectors,
    measure_agreement,
)
from trine.export.options import EngineMeasurement, EngineReport
from trine.runtime.bundle.bundle import PARITY_NAME, Bundle
from trine.runtime.bundle.golden import Deviation, worst
from trine.runtime.bundle.manifest import EngineEntry, Tolerance
from trine.runtime.bundle.precision import EnginePrecision, Precision
from trine.runtime.embedder import Embedder
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.opening import open_engine
from trine.runtime.errors import BundleError
from trine.runtime.hardware.memory import resident_bytes
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.outputs import Embeddings

__all__ = ["UNMEASURED", "check_float32", "measure_engine", "tolerance_of", "write_parity"]

#: Digits kept of a measured difference: enough to compare, few enough to be the same on each run.
DIGITS = 3
#: How much further off than measured an engine may be on another processor, in 1 - cosine and in
#: elements, before its self-test refuses it; and what rounding alone may do.
TOLERANCE_FACTOR = 4.0
ROUNDING_COSINE, ROUNDING_DIFFERENCE = 1e-6, 2e-4


#: float32 engines differ from the reference by rounding alone: measured under 3e-6 for single
#: vectors and 2e-5 for multi-vectors. The rest is room for other processors' kernels.
FLOAT32_TOLERANCE = Tolerance(min_cosine=0.999999, max_difference=ROUNDING_DIFFERENCE)
#: For engines too large to be run at export: what a wrong weight would exceed all the same. Rows
#: of multi-vectors are off by more than single vectors.
UNMEASURED: dict[EnginePrecision, Tolerance] = {
    "fp32": FLOAT32_TOLERANCE,
    "fp16": Tolerance(min_cosine=0.98, max_difference=0.2),
    "bf16": Tolerance(min_cosine=0.95, max_difference=0.3),
    "int8": Tolerance(min_cosine=0.9, max_difference=0.5),
    "int4": Tolerance(min_cosine=0.6, max_difference=1.0),
    "fp8": Tolerance(min_cosine=0.8, max_difference=0.6),
}


def measure_engine(
    bundle: Bundle,
    entry: EngineEntry,
    corpus: CorpusRun | None,
    mapped: bool,
) -> EngineMeasurement:
    """Return how far the engine is from the reference, task by task, so one decoder is loaded.

    Args:
        bundle: with the engine's files.
        entry: of the engine.
        corpus: to embed and rank, with float32's vectors; None for the golden inputs alone.
        mapped: run it in the memory of one graph, for engines that would take too much.
    """
    deviations: list[Deviation] = []
    agreements: list[Agreement] = []
    before, peak, load_s, run_s, num_tokens = resident_bytes(), 0, 0.0, 0.0, 0
    for task in entry.decoders:
        started = time.perf_counter()
        engine = (
            LowMemoryEngine(bundle, entry, (task,))
            if mapped
            else open_engine(bundle, entry, EngineOptions(threads=None, tasks=(task,)))
        )
        embedder = Embedder(bundle, entry, engine, BatchLimits(), self_test=False)
        load_s = max(load_s, time.perf_counter() - started)
        deviations += embedder.deviations("text") + embedder.deviations("image")
        if corpus is None:
            continue
        started = time.perf_counter()
        sides = [
            embedder.encode(items, task, prompt_name=prompt, return_multivector=True)
            for items, prompt in corpus.corpus.sides
        ]
        run_s += time.perf_counter() - started
        num_tokens += sum(int(side.num_tokens.sum()) for side in sides)
        queries, passages, images = (_vectors(side) for side in sides)
        found = CorpusVectors(queries=queries, passages=passages, images=images)
        agreements.append(measure_agreement(task, corpus.vectors[task], found))
        peak = max(
            peak, engine.peak_bytes if isinstance(engine, LowMemoryEngine) else resident_bytes()
        )
    return EngineMeasurement(
        deviations=tuple(deviations),
        vectors=tuple(row for agreement in agreements for row in agreement.vectors),
        rankings=tuple(row for agreement in agreements for row in agreement.rankings),
        load_s=load_s,
        resident_bytes=max(0, (peak or resident_bytes()) - before),
        mapped=mapped,
        tokens_per_s=num_tokens / run_s if run_s else None,
    )


def _vectors(side: Embeddings) -> Vectors:
    if side.single is None or side.multi is None:
        raise ValueError("both heads are needed")
    return Vectors(single=np.asarray(side.single, np.float32), multi=list(side.multi))


def tolerance_of(precision: Precision, found: EngineMeasurement | None) -> Tolerance:
    """Return the tolerance for an engine's self-test.

    It is a little wider than what was measured on the golden inputs, and where nothing was, what
    the precision may be off at most.
    """
    if precision == "fp32" or found is None:
        return UNMEASURED[precision]
    cosine, difference = worst(found.deviations)
    # Rounded, so that the same engine gets the same tolerance on each run.
    return Tolerance(
        min_cosine=round(max(-1.0, 1 - TOLERANCE_FACTOR * max(1 - cosine, 0) - ROUNDING_COSINE), 6),
        max_difference=round(min(2.0, TOLERANCE_FACTOR * difference + ROUNDING_DIFFERENCE), 5),
    )


def check_float32(entry: EngineEntry, found: EngineMeasurement) -> None:
    """Raise BundleError if a float32 engine differs from the reference by more than rounding."""
    cosine, difference = worst(found.deviations)
    limits = FLOAT32_TOLERANCE
    if cosine < limits.min_cosine or difference > limits.max_difference:
        raise BundleError(
            f"engine {entry.name} is off: worst cosine {cosine:.6f} (at least "
            f"{limits.min_cosine}), largest difference {difference:.2g} (at most "
            f"{limits.max_difference}) from the reference; nothing was written. Check the "
            "versions of onnxruntime and numpy, and whether an adapter's alpha is so large that it "
            "magnifies rounding"
        )


def write_parity(folder: Path, reports: Sequence[EngineReport]) -> None:
    """Write parity.json: what was measured of each engine, but for times, which are the machine's.

    A file holds per engine the golden vectors' worst cosine and difference, the corpus's vectors
    and rankings (`trine.export.accuracy.rank_agreement`), its plan's loss, and the size in bytes.
    """
    text = json.dumps({r.name: _content(r) for r in reports}, indent=2) + "\n"
    (folder / PARITY_NAME).write_text(text, encoding="utf-8")


def _content(report: EngineReport) -> dict[str, object]:
    found = report.measured
    groups: dict[str, list[Deviation]] = {}
    for deviation in found.deviations if found else ():
        key = f"{deviation.task}/{deviation.modality}/{deviation.head}"
        groups.setdefault(key, []).append(deviation)
    rows = {}
    for key, group in groups.items():
        cosine, difference = worst(group)
        rows[key] = {
            "min_cosine": round(cosine, 7),
            "max_difference": float(f"{difference:.{DIGITS - 1}e}"),
        }
    return {
        "reference": "float32 numpy, from the checkpoint",
        "measured": found is not None,
        "bytes": sum(size for _, size in report.graphs),
        "below_floor": list(report.below_floor),
        "vectors": rows,
        "corpus": [_rounded(row) for row in found.vectors] if found else [],
        "rankings": [_rounded(row) for row in found.rankings] if found else [],
        "imitated": None
        if report.plan_loss is None
        else {
            "inputs": len(report.plan_loss.losses),
            "mean_cosine": round(1 - report.plan_loss.mean, 5),
            "worst_cosine": round(1 - report.plan_loss.worst, 5),
        },
    }


def _rounded(row: object) -> dict[str, object]:
    """Return a dataclass as a dict, its numbers to five decimals."""
    if not dataclasses.is_dataclass(row) or isinstance(row, type):
        raise TypeError(row)
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(row).items()
    }
