"""Measures an exported engine against the reference, and writes what was found into the bundle."""

import json
from collections.abc import Sequence
from pathlib import Path

from trine.export.options import EngineReport
from trine.runtime.bundle import PARITY_NAME, Bundle
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError
from trine.runtime.golden import Deviation, worst
from trine.runtime.manifest import EngineEntry

__all__ = ["measure_engine", "write_parity"]

#: Digits kept of a measured difference: enough to compare, few enough to be the same on each run.
DIGITS = 3


def measure_engine(bundle: Bundle, entry: EngineEntry) -> tuple[Deviation, ...]:
    """Return how far the engine is from the golden vectors, task by task, so one decoder is loaded.

    Raises:
        BundleError: it is further off than its tolerance.
    """
    found: list[Deviation] = []
    for task in entry.decoders:
        embedder = Embedder.open(bundle, entry, tasks=(task,), threads=None)
        found += embedder.deviations("text") + embedder.deviations("image")
    cosine, difference = worst(found)
    if cosine < entry.tolerance.min_cosine or difference > entry.tolerance.max_difference:
        raise BundleError(
            f"engine {entry.name} is off: worst cosine {cosine:.6f} (at least "
            f"{entry.tolerance.min_cosine}), largest difference {difference:.2g} (at most "
            f"{entry.tolerance.max_difference}) from the reference; nothing was written. Check the "
            "versions of onnxruntime and numpy"
        )
    return tuple(found)


def write_parity(folder: Path, reports: Sequence[EngineReport]) -> None:
    """Write parity.json: per engine, task, modality and head the worst cosine and difference."""
    content = {}
    for report in reports:
        groups: dict[str, list[Deviation]] = {}
        for found in report.deviations or ():
            groups.setdefault(f"{found.task}/{found.modality}/{found.head}", []).append(found)
        rows = {}
        for key, group in groups.items():
            cosine, difference = worst(group)
            rows[key] = {
                "min_cosine": round(cosine, 7),
                "max_difference": float(f"{difference:.{DIGITS - 1}e}"),
            }
        content[report.name] = {
            "reference": "float32 numpy, from the checkpoint",
            "measured": report.deviations is not None,
            "vectors": rows,
        }
    text = json.dumps(content, indent=2) + "\n"
    (folder / PARITY_NAME).write_text(text, encoding="utf-8")
