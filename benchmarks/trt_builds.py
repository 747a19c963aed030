"""Builds TensorRT-RTX engines of every kind of graph and records what the builder says of them.

`python benchmarks/trt_builds.py CHECKPOINT TEXT_AND_IMAGE_BUCKETS RESULTS.json` adds its rows to
the file. Scratch memory is the builder's own figure for its largest profile. No graph allows
attention to be decomposed, so an engine that was built has a fused attention kernel in each layer.
Scales are made up: they do not change what is built.
"""

import dataclasses
import json
import sys
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
from trine.export.trt.graph_files import TrtPlans, write_trt_graphs
from trine.export.trt.lint import lint_file
from trine.export.trt.plan import Half, Quantisation, TrtPlan, uniform_plan
from trine.runtime.errors import EngineError
from trine.runtime.model_config import ModelConfig
from trine.runtime.peft_adapter import PeftAdapters

SMS = (86, 89, 120)
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


def _rows(source: Path, buckets: str, folder: Path) -> Iterator[dict[str, object]]:
    checkpoint = Checkpoint(source)
    config = checkpoint.config
    adapters = PeftAdapters(source / "adapters", config, config.tasks)
    runtime = choose_layout(adapters, config.tasks, None)
    decoder, vision = parse_buckets(buckets)
    spec = BuildSpec(
        builder="tensorrt_rtx", sms=SMS, decoder=decoder, vision=vision, max_rank=runtime.max_rank
    )
    for precision, mode in product(FORMATS, ("merged", "runtime")):
        plan = _plan(config, precision)
        layout = runtime if mode == "runtime" else dataclasses.replace(runtime, files={})
        place = folder / f"{precision}-{mode}"
        place.mkdir()
        plans = TrtPlans(vision=plan, decoder=plan)
        graphs = write_trt_graphs(checkpoint, adapters, config.tasks[:1], layout, plans, place)
        for (name, graph), sm in product(graphs.items(), SMS):
            if name == "vision" and mode == "runtime":
                continue  # the same graph
            row = {"checkpoint": source.name, "precision": precision, "adapters": mode}
            found = _build(graph, dataclasses.replace(spec, sms=(sm,)), config, place)
            yield row | {"buckets": buckets, "sm": sm} | found


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
    return row | {
        "scratch_mib": round(built.scratch_bytes / 2**20, 1),
        "engine_bytes_per_weight": round(built.engine_bytes / _num_weights(graph), 3),
        "seconds": built.seconds,
        "peak_mib": built.peak_bytes >> 20,
        "builder": f"{built.builder} {built.version}",
    }


def main() -> None:
    """Build, and add the rows to the results."""
    source, buckets, results = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(source, buckets, Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    known = json.loads(results.read_text()) if results.exists() else {"builds": []}
    known = {"machine": machine_record(), "builds": known["builds"] + rows}
    results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
