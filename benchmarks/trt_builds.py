"""Builds TensorRT-RTX engines of a bundle's graphs and records what the builder says of them.

`python benchmarks/trt_builds.py BUNDLE RESULTS.json` adds a row for each graph and processor to the
file, of bundles that `trine export --target tensorrt` wrote, with the plans it made; `--engine`,
`--sm` and `--graph` leave others out. Scratch memory is the builder's own figure for each bucket,
peak memory that of its process. No graph allows attention to be decomposed, so an engine that was
built has a fused kernel for each attention operation, which `fused_attention` counts; the vision
tower has several a block.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from machine import machine_record

from trine.export.commands.build import DEFAULT_BUCKETS
from trine.export.trt.build_spec import BuildSpec, parse_buckets
from trine.export.trt.engine_build import build_engine
from trine.export.trt.lint import lint_file
from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.errors import EngineError

SMS = (86, 89, 120)
GRAPHS = ("vision", "decoder")


def _num_weights(graph: Path) -> int:
    """Return how many numbers the matrices of a graph have."""
    model = onnx.load(graph, load_external_data=False)
    matrices = (tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    # Scales of blocks are matrices too.
    return sum(prod(tensor.dims) for tensor in matrices if not tensor.name.endswith(".scales"))


def _num_attention(graph: Path) -> int:
    """Return how many attention operations a graph has, of which none may be decomposed."""
    model = onnx.load(graph, load_external_data=False)
    found = [node for node in model.graph.node if node.op_type == "Attention"]
    allowed = [n for n in found if any("decomposable" in a.name for a in n.attribute)]
    if allowed:
        raise ValueError(f"{graph}: {len(allowed)} attention operations may be decomposed")
    return len(found)


def _rows(bundle: Bundle, asked: argparse.Namespace, place: Path) -> Iterator[dict[str, object]]:
    model = bundle.manifest.model
    decoder, vision = parse_buckets(asked.buckets)
    spec = BuildSpec(
        builder="tensorrt_rtx",
        sms=SMS,
        decoder=decoder,
        vision=vision,
        max_rank=bundle.manifest.adapters.max_rank,
    )
    for entry in bundle.manifest.engines:
        if entry.runner != "tensorrt" or entry.name not in (asked.engine or [entry.name]):
            continue
        graphs = {"vision": entry.vision, "decoder": next(iter(entry.decoders.values()))}
        for kind in asked.graph or GRAPHS:
            for sm in asked.sm or SMS:
                of_one = dataclasses.replace(spec, sms=(sm,))
                yield {
                    "checkpoint": bundle.manifest.source.id,
                    "precision": entry.precision,
                    "adapters": entry.adapters,
                    "graph": kind,
                    "sm": sm,
                    "layers": model.vision.depth if kind == "vision" else model.decoder.num_layers,
                    "left_wider": _num_wider(entry, kind),
                } | _build(bundle, bundle.path(graphs[kind]), of_one, asked.buckets, place)


def _num_wider(entry: EngineEntry, kind: str) -> int:
    precision = entry.precision_map
    return len((precision.vision if kind == "vision" else precision.decoder).wider)


def _build(
    bundle: Bundle, graph: Path, spec: BuildSpec, buckets: str, place: Path
) -> dict[str, object]:
    vision, is_vision = bundle.manifest.model.vision, graph.stem == "vision"
    row: dict[str, object] = {
        "findings": sorted({finding.rule for finding in lint_file(graph, spec.sms)})
    }
    try:
        built, _ = build_engine(graph, "vision" if is_vision else "decoder", spec, vision, place)
    except EngineError as error:
        return row | {"refused": str(error).partition(": ")[2]}
    (place / built.engine).unlink()
    kind = "image=" if is_vision else "text="
    # The builder's profiles are sorted as `parse_buckets` sorts.
    names = sorted(
        (name for name in buckets.split(",") if name.startswith(kind)),
        key=lambda name: [int(size) for size in name.removeprefix(kind).split("x")],
    )
    scratch = zip(names, built.scratch_bytes, strict=True)
    layers = vision.depth if is_vision else bundle.manifest.model.decoder.num_layers
    return row | {
        "fused_attention": _num_attention(graph),
        "scratch_mib": {name: round(size / 2**20, 1) for name, size in scratch},
        "engine_bytes_per_weight": round(built.engine_bytes / _num_weights(graph), 3),
        "seconds": built.seconds,
        "seconds_per_layer": round(built.seconds / layers, 2),
        "peak_mib": built.peak_bytes >> 20,
        "builder": f"{built.builder} {built.version}",
    }


def main() -> None:
    """Build, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--buckets", default=DEFAULT_BUCKETS)
    parser.add_argument("--engine", action="append", metavar="NAME")
    parser.add_argument("--sm", type=int, choices=SMS, action="append")
    parser.add_argument("--graph", choices=GRAPHS, action="append")
    asked = parser.parse_args()
    rows, results = [], asked.results
    with tempfile.TemporaryDirectory(dir=results.parent) as folder:
        for row in _rows(open_bundle(asked.bundle), asked, Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    known = json.loads(results.read_text()) if results.exists() else {"builds": []}
    known = {"machine": machine_record(), "builds": known["builds"] + rows}
    results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
