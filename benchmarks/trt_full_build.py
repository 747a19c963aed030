"""Builds a TensorRT-RTX engine of a whole checkpoint's decoder and records what it took.

`python benchmarks/trt_full_build.py CHECKPOINT RESULTS.json --work FOLDER` writes the decoder's
graph with every layer in one 16-bit format and the first task's adapter merged, and builds it as
`trine build` does: all layers and all buckets at once. Peak memory is that of the builder process,
and what of it can be given back because it lies in files is not told apart.
"""

import argparse
import json
from pathlib import Path

from machine import machine_record

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.commands.build import DEFAULT_BUCKETS
from trine.export.graphs.builder import save_graph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.trt.decoder import build_trt_decoder
from trine.export.graphs.trt.precision import uniform_plan
from trine.export.trt.build_spec import BuildSpec, parse_buckets
from trine.export.trt.engine_build import build_engine
from trine.runtime.adapters.peft import PeftAdapters


def main() -> None:
    """Write the graph unless it is there, build it, and add a row to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--half", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--sm", type=int, default=89)
    parser.add_argument("--buckets", default=DEFAULT_BUCKETS)
    asked = parser.parse_args()
    checkpoint = Checkpoint(asked.checkpoint)
    config = checkpoint.config
    graph = asked.work / f"decoder-{asked.half}.onnx"
    if not graph.exists():
        asked.work.mkdir(parents=True, exist_ok=True)
        peft = PeftAdapters(asked.checkpoint / "adapters", config, config.tasks)
        weights = DecoderWeights(checkpoint, peft, config.tasks[0])
        model = build_trt_decoder(config.decoder, weights, uniform_plan(asked.half))
        save_graph(model, graph, lambda size: None)
    decoder, vision = parse_buckets(asked.buckets)
    spec = BuildSpec(
        builder="tensorrt_rtx", sms=(asked.sm,), decoder=decoder, vision=vision, max_rank=1
    )
    built, _ = build_engine(graph, "decoder", spec, config.vision, asked.work)
    graph_bytes = graph.with_suffix(".data").stat().st_size
    row = {
        "checkpoint": asked.checkpoint.name,
        "graph": "decoder",
        "precision": asked.half,
        "adapters": "merged",
        "sm": asked.sm,
        "layers": config.decoder.num_layers,
        "graph_bytes": graph_bytes,
        "engine_bytes": built.engine_bytes,
        "engine_bytes_per_weight": round(built.engine_bytes / (graph_bytes / 2), 3),
        "seconds": built.seconds,
        "seconds_per_layer": round(built.seconds / config.decoder.num_layers, 2),
        "peak_mib": built.peak_bytes >> 20,
        "scratch_mib": {
            f"text={b.tokens}x{b.sequences}x{b.length}": round(size / 2**20, 1)
            for b, size in zip(decoder, built.scratch_bytes, strict=True)
        },
        "builder": f"{built.builder} {built.version}",
    }
    print(json.dumps(row))
    results = asked.results
    known = json.loads(results.read_text()) if results.exists() else {"builds": []}
    known = {"machine": machine_record(), "builds": [*known["builds"], row]}
    results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
