"""Builds TensorRT-RTX engines of every kind of graph and records what the builder says of them.

`python benchmarks/trt_builds.py CHECKPOINT TEXT_AND_IMAGE_BUCKETS RESULTS.json` adds its rows to
the file; `--precision`, `--adapters`, `--sm` and `--graph` leave others out. Scratch memory is the
builder's own figure for its largest profile, peak memory that of its process. No graph allows
attention to be decomposed, so an engine that was built has a fused attention kernel in each layer.
Scales are made up: they do not change what is built.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import Literal, cast

import onnx
from machine import machine_record

from trine.export.adapter_files import choose_layout
from trine.export.checkpoint import Checkpoint
from trine.export.trt.build_spec import BuildSpec, parse_buckets
from trine.export.trt.engine_build import build_engine
from trine.export.trt.graph_files import write_trt_graphs
from trine.export.trt.graph_plans import TrtPlans
from trine.export.trt.lint import lint_file
from trine.export.trt.plan import Half, Quantisation, TrtPlan, uniform_plan
from trine.runtime.errors import EngineError
from trine.runtime.model_config import ModelConfig
from trine.runtime.peft_adapter import PeftAdapters

SMS = (86, 89, 120)
MODES = ("merged", "runtime")
GRAPHS = ("vision", "decoder")
FORMATS = ("bf16", "fp16", "int8", "fp8")
Kind = Literal["int8", "fp8"]


def _plan(config: ModelConfig, precision: str) -> TrtPlan:
    if precision not in ("int8", "fp8"):
        return uniform_plan(cast(Half, precision))
    names = [
        f"layers.{layer}.{role}"
        for layer in range(config.decoder.num_layers)
        for role in ("self_attn.qkv", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    ]
    names += [
        f"blocks.{block}.{role}"
        for block in range(config.vision.depth)
        for role in ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    ]
    layer = Quantisation(kind=cast(Kind, precision), input_max=8.0)
    quantised = dict.fromkeys([*names, "merger.mlp.0", "merger.mlp.2"], layer)
    return uniform_plan("bf16", quantised)


def _num_weights(graph: Path) -> int:
    """Return how many numbers the matrices of a graph have."""
    model = onnx.load(graph, load_external_data=False)
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 2)


def _rows(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    source, buckets = asked.checkpoint, asked.buckets
    checkpoint = Checkpoint(source)
    config = checkpoint.config
    adapters = PeftAdapters(source / "adapters", config, config.tasks)
    runtime = choose_layout(adapters, config.tasks, None)
    if asked.layers is not None:
        first = dataclasses.replace(config.decoder, num_layers=asked.layers)
        checkpoint.config = config = dataclasses.replace(config, decoder=first)
    decoder, vision = parse_buckets(buckets)
    spec = BuildSpec(
        builder="tensorrt_rtx", sms=SMS, decoder=decoder, vision=vision, max_rank=runtime.max_rank
    )
    for precision, mode in product(asked.precision or FORMATS, asked.adapters or MODES):
        plan = _plan(config, precision)
        layout = runtime if mode == "runtime" else dataclasses.replace(runtime, files={})
        place = folder / f"{precision}-{mode}"
        place.mkdir()
        plans = TrtPlans(vision=plan, decoder=plan)
        graphs = write_trt_graphs(checkpoint, adapters, config.tasks[:1], layout, plans, place)
        for (name, graph), sm in product(graphs.items(), asked.sm or SMS):
            kind = "vision" if name == "vision" else "decoder"
            if kind not in (asked.graph or GRAPHS):
                continue
            if kind == "vision" and mode == "runtime" and "merged" in (asked.adapters or MODES):
                continue  # the same graph
            row = {"checkpoint": source.name, "precision": precision, "adapters": mode}
            found = _build(graph, dataclasses.replace(spec, sms=(sm,)), config, place)
            yield row | {"buckets": buckets, "sm": sm} | found
        shutil.rmtree(place)


def _build(graph: Path, spec: BuildSpec, config: ModelConfig, place: Path) -> dict[str, object]:
    is_vision = graph.stem == "vision"
    row: dict[str, object] = {
        "graph": "vision" if is_vision else "decoder",
        "layers": config.vision.depth if is_vision else config.decoder.num_layers,
        "findings": sorted({finding.rule for finding in lint_file(graph, spec.sms)}),
    }
    try:
        built, _ = build_engine(
            graph, "vision" if is_vision else "decoder", spec, config.vision, place / "built"
        )
    except EngineError as error:
        return row | {"refused": str(error).partition(": ")[2]}
    (place / "built" / built.engine).unlink()
    return row | {
        "scratch_mib": round(built.scratch_bytes / 2**20, 1),
        "engine_bytes_per_weight": round(built.engine_bytes / _num_weights(graph), 3),
        "seconds": built.seconds,
        "peak_mib": built.peak_bytes >> 20,
        "builder": f"{built.builder} {built.version}",
    }


def main() -> None:
    """Build, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("buckets")
    parser.add_argument("results", type=Path)
    parser.add_argument("--precision", choices=FORMATS, action="append")
    parser.add_argument("--adapters", choices=MODES, action="append")
    parser.add_argument("--sm", type=int, choices=SMS, action="append")
    parser.add_argument("--layers", type=int, help="the first so many of the decoder")
    parser.add_argument("--graph", choices=GRAPHS, action="append")
    asked = parser.parse_args()
    rows, results = [], asked.results
    with tempfile.TemporaryDirectory(dir=results.parent) as folder:
        for row in _rows(asked, Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    known = json.loads(results.read_text()) if results.exists() else {"builds": []}
    known = {"machine": machine_record(), "builds": known["builds"] + rows}
    results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
