"""Measures what the output types cost in ranks: nDCG@10 by type and number of dimensions.

Each pairs file (`trine eval --help` has the format) is embedded once in float32; queries and
candidates are then cut, normalised, put into each type and ranked as a database would:

float32, float16          dot product
int8                      dot product of the codes, with the bundle's ranges
int8, nearest             the same, but rounded to the nearest step in place of dropping digits
int8, min-max             as int8, with a range for each dimension, from its lowest to its highest
                          value among the calibration inputs
binary                    number of equal bits
binary, float query       dot product of the float32 query with the candidates' bits as ±1
binary, 100 rescored      the 100 candidates with most equal bits, ranked by their float32 vectors

Ranges are the bundle's, else come from the inputs that an export is calibrated with; never from the
pairs. Writes
PREFIX.json, PREFIX.md (a table) and PREFIX.png (a plot; needs matplotlib).

    trine export nano nano.bundle
    python benchmarks/output_quantisation.py nano.bundle --pairs retrieval pairs.jsonl \\
        --pairs code functions.jsonl --out benchmarks/results/output-quantisation
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import machine_record
from numpy.typing import NDArray

from trine.export.calibration.inputs import CalibrationSet, built_in_calibration
from trine.kernels.pooling import truncate
from trine.kernels.quantise import (
    hamming_distances,
    pack_ubinary,
    quantise_int8,
    to_float16,
    unpack_signs,
)
from trine.runtime.commands.eval.pair_files import PairItem, read_pairs
from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.scoring.quantisation import calibrate_ranges
from trine.runtime.scoring.rank_metrics import RankMetrics, rank_metrics

#: Candidates that are ranked again with their float32 vectors.
SHORTLIST = 100
#: Below every score, so that what is not on the shortlist ranks behind it.
LAST = np.float32(-1e9)
#: Open and of different sizes in the plot, because lines of types that lose nothing coincide.
MARKERS = "osD^vXP*"

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One type at one number of dimensions, on one file of pairs."""

    task: str
    queries: int
    candidates: int
    dim: int
    output_type: str
    bytes_per_vector: int
    ndcg_at_10: float
    loss: float
    recall_at_10: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--pairs", nargs=2, action="append", required=True, metavar=("TASK", "FILE")
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PREFIX")
    arguments = parser.parse_args()
    tasks = list(dict.fromkeys(task for task, _ in arguments.pairs))
    embedder = Embedder.load(arguments.bundle, tasks=tasks)
    model = embedder.bundle.manifest.model
    dims = sorted({*model.matryoshka_dims, model.decoder.hidden_size})
    inputs = built_in_calibration("full")
    calibration = {task: calibration_vectors(embedder, task, inputs) for task in tasks}
    ranges = embedder.output_ranges
    if not ranges.by_task:
        ranges = calibrate_ranges(calibration, dims)
    rows: list[Row] = []
    for task, path in arguments.pairs:
        pairs = read_pairs(Path(path))
        queries = embedded(embedder, pairs.queries, task, "query")
        candidates = embedded(embedder, pairs.candidates, task, "passage")
        for dim in dims:
            cut = [truncate(side, dim) for side in (queries, candidates, calibration[task])]
            shared = ranges.of(task, dim)
            found = measure(cut[0], cut[1], pairs.relevant, cut[2], shared)
            for name, (metrics, size) in found.items():
                rows.append(
                    Row(
                        task=task,
                        queries=len(queries),
                        candidates=len(candidates),
                        dim=dim,
                        output_type=name,
                        bytes_per_vector=size,
                        ndcg_at_10=metrics.ndcg_at_10,
                        loss=found["float32"][0].ndcg_at_10 - metrics.ndcg_at_10,
                        recall_at_10=metrics.recall_at_10,
                    )
                )
                print(f"{task} {dim:5} {name:22} {metrics.ndcg_at_10:.4f} {rows[-1].loss:+.4f}")
    write_results(arguments.out, rows, embedder.bundle.manifest.source.id, inputs.source)


def calibration_vectors(embedder: Embedder, task: str, inputs: CalibrationSet) -> Vectors:
    """Return float32 [N, hidden] of the inputs that an export is calibrated with."""
    items: list[Item] = [text.text for text in inputs.texts]
    items += [ImageText((image,)) for image in inputs.images]
    prompts = [text.prompt for text in inputs.texts] + ["query"] * len(inputs.images)
    size = embedder.bundle.manifest.model.decoder.hidden_size
    return np.asarray(embedder.encode(items, task, prompt_name=prompts, truncate_dim=size).single)


def embedded(embedder: Embedder, items: Sequence[PairItem], task: str, prompt: Prompt) -> Vectors:
    """Return float32 [B, hidden] of one side of pairs."""
    size = embedder.bundle.manifest.model.decoder.hidden_size
    listed = [item.item() for item in items]
    return np.asarray(embedder.encode(listed, task, prompt_name=prompt, truncate_dim=size).single)


def measure(
    queries: Vectors,
    candidates: Vectors,
    relevant: Sequence[frozenset[int]],
    calibration: Vectors,
    shared: Vectors,
) -> dict[str, tuple[RankMetrics, int]]:
    """Return the measures of each type, and its bytes a vector.

    Args:
        queries, candidates, calibration: float32 [B, dim], normalised.
        relevant: as in `rank_metrics`.
        shared: float32 [2, dim], one range for all dimensions.
    """
    dim = queries.shape[1]
    own = np.stack([calibration.min(axis=0), calibration.max(axis=0)])
    bits = [pack_ubinary(side) for side in (queries, candidates)]
    equal = -hamming_distances(bits[0], bits[1])
    exact = queries @ candidates.T
    step = (shared[1] - shared[0]) / 255
    nearest = [np.rint((side - shared[0]) / step - 127.5) for side in (queries, candidates)]
    scores = {
        "float32": (exact, 4 * dim),
        "float16": (product(to_float16(queries), to_float16(candidates)), 2 * dim),
        "int8": (product(*(quantise_int8(s, shared) for s in (queries, candidates))), dim),
        "int8, nearest": (product(nearest[0], nearest[1]), dim),
        "int8, min-max": (product(*(quantise_int8(s, own) for s in (queries, candidates))), dim),
        "binary": (equal, bits[1].shape[1]),
        "binary, float query": (queries @ unpack_signs(bits[1], dim).T, bits[1].shape[1]),
        "binary, 100 rescored": (rescored(equal, exact), bits[1].shape[1] + 4 * dim),
    }
    return {name: (rank_metrics(s, relevant), size) for name, (s, size) in scores.items()}


def product(queries: NDArray[np.number], candidates: NDArray[np.number]) -> Vectors:
    """Return float32 [Q, C], exact for the whole numbers that occur here."""
    return queries.astype(np.float32) @ candidates.astype(np.float32).T


def rescored(coarse: Vectors, fine: Vectors) -> Vectors:
    """Return `fine` [Q, C] where `coarse` is among its row's best, and the last rank elsewhere."""
    best = np.argsort(-coarse, axis=1, kind="stable")[:, :SHORTLIST]
    scores = np.full_like(fine, LAST)
    np.put_along_axis(scores, best, np.take_along_axis(fine, best, axis=1), axis=1)
    return scores


def write_results(prefix: Path, rows: Sequence[Row], source: str, calibration: str) -> None:
    """Write the record, the table and the plot."""
    record = {
        "benchmark": "output_quantisation",
        "checkpoint": source,
        "calibration": calibration,
        "results": [asdict(row) for row in rows],
        **machine_record(),
    }
    prefix.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    prefix.with_suffix(".md").write_text(markdown_table(rows, source), encoding="utf-8")
    draw(prefix.with_suffix(".png"), rows, source)


def markdown_table(rows: Sequence[Row], source: str) -> str:
    """Return a table for each task: a line a type, a column a number of dimensions."""
    lines = [f"# nDCG@10 of {source} by output type", ""]
    lines += ["In brackets the difference to float32 of the same dimensions.", ""]
    for task in dict.fromkeys(row.task for row in rows):
        members = [row for row in rows if row.task == task]
        dims = list(dict.fromkeys(row.dim for row in members))
        first = members[0]
        lines += [f"## Task {task}: {first.queries} queries, {first.candidates} candidates", ""]
        lines += ["| type | " + " | ".join(map(str, dims)) + f" | bytes at {dims[-1]} |"]
        lines += ["| --- |" + " ---: |" * (len(dims) + 1)]
        for name in dict.fromkeys(row.output_type for row in members):
            line = [row for row in members if row.output_type == name]
            cells = [f"{row.ndcg_at_10:.3f} ({0 - round(row.loss, 3):+.3f})" for row in line]
            if name == "float32":
                cells = [f"{row.ndcg_at_10:.3f}" for row in line]
            lines += [f"| {name} | {' | '.join(cells)} | {line[-1].bytes_per_vector} |"]
        lines += [""]
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[Row], source: str) -> None:
    """Write a plot: nDCG@10 over the dimensions kept, a line a type, a panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(row.task for row in rows))
    figure, panels = pyplot.subplots(
        1, len(tasks), figsize=(6 * len(tasks), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, task in zip(panels[0], tasks, strict=True):
        members = [row for row in rows if row.task == task]
        for index, name in enumerate(dict.fromkeys(row.output_type for row in members)):
            line = [row for row in members if row.output_type == name]
            dims = [row.dim for row in line]
            panel.plot(
                dims,
                [row.ndcg_at_10 for row in line],
                marker=MARKERS[index % len(MARKERS)],
                markersize=13 - index,
                fillstyle="none",
                linewidth=1,
                label=name,
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(dims, [str(dim) for dim in dims])
        panel.set_xlabel("dimensions kept")
        panel.set_title(f"{task}, {members[0].queries} queries, {members[0].candidates} candidates")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("nDCG@10")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    figure.suptitle(f"{source}: output types")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
