"""Compares 8-bit decoders by scales of this project and of nvidia-modelopt, on the same inputs.

Three steps, as modelopt brings versions of its own and is kept in an environment apart:

    python benchmarks/trt_calibration.py prepare CHECKPOINT FOLDER
    MODELOPT_PYTHON benchmarks/backends/modelopt_quantise.py FOLDER
    python benchmarks/trt_calibration.py measure FOLDER RESULTS.json

`prepare` writes the float32 decoder in the dialect of TensorRT, our 8-bit ones, and packed runs of
texts: those that scales are made from, and others that vectors are compared on. Nothing but linear
layers is narrower than float32, and nothing is kept wider but layers whose inputs do not fit one
scale; modelopt quantises what it does by itself, and also the same layers and nothing else.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import machine_record
from numpy.typing import NDArray

from trine.export.bundle.runtime_files import write_embedding, write_tokenizer
from trine.export.calibration.inputs import built_in_calibration
from trine.export.calibration.run import calibration_inputs
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import save_graph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.trt.decoder import build_trt_decoder
from trine.export.graphs.trt.precision import uniform_plan
from trine.export.quantisation.observer import RangeScan
from trine.export.quantisation.trt.calibration import quantise_layers
from trine.export.reference.model import Reference
from trine.export.trt.lint import lint_file
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.bundle import EMBEDDING_NAME
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import lay_out_sequences
from trine.runtime.libraries import import_onnxruntime
from trine.runtime.preprocessing.preprocessor import Preprocessor

Feeds = dict[str, NDArray[np.generic]]
KINDS = ("int8", "fp8")
#: Texts in a packed run, and runs to calibrate with.
RUN_TEXTS, CALIBRATION_RUNS = 4, 6
INPUTS = ("embeddings", "rope_cos", "rope_sin", "pad_index", "unpad_index")


def _read_runs(folder: Path, name: str) -> list[Feeds]:
    runs: list[Feeds] = []
    for path in sorted(folder.glob(f"{name}-*.npz")):
        with np.load(path) as file:
            runs.append({key: file[key] for key in file.files})
    return runs


def prepare(checkpoint_folder: Path, folder: Path) -> None:
    """Write graphs and runs."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(checkpoint_folder)
    config = checkpoint.config
    peft = PeftAdapters(checkpoint_folder / "adapters", config, config.tasks)
    tokenizer = write_tokenizer(checkpoint, folder)
    write_embedding(checkpoint, folder, lambda size: None)
    table = EmbeddingTable(folder / EMBEDDING_NAME, config.decoder)
    task = config.tasks[0]
    chosen = dataclasses.replace(built_in_calibration("full"), images=())
    inputs = list(calibration_inputs(config, Preprocessor(config, tokenizer), chosen, (task,)))
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs = [inputs[place] for place in order]
    num_calibration = RUN_TEXTS * CALIBRATION_RUNS

    def write(name: str, mine: Sequence[Any]) -> None:
        for number, start in enumerate(range(0, len(mine), RUN_TEXTS)):
            sequences = [item.sequence for item in mine[start : start + RUN_TEXTS]]
            rows = np.concatenate([table.rows(s.token_ids) for s in sequences])
            laid_out = lay_out_sequences(sequences, rows, config)
            feeds = {key: getattr(laid_out, key) for key in INPUTS}
            feeds["pooled"] = np.concatenate([s.pooled for s in sequences])
            np.savez(folder / f"{name}-{number:02}.npz", lengths=laid_out.lengths, **feeds)

    write("calibration", inputs[:num_calibration])
    write("held-out", inputs[num_calibration : 3 * num_calibration])
    scan = RangeScan()
    Reference(checkpoint, peft, scan).run(inputs[:num_calibration])
    plan = uniform_plan("fp32")
    plans, left_out = {"fp32": plan}, {}
    for kind in KINDS:
        found = quantise_layers(scan.ranges, "int8" if kind == "int8" else "fp8")
        mine_only = {n: how for n, how in found.items() if n.startswith("layers.")}
        plans[f"ours-{kind}"] = dataclasses.replace(plan, quantised=mine_only)
        left = [n for n in scan.ranges if n.startswith("layers.") and n not in mine_only]
        left_out[kind] = left
        print(f"{kind}: {len(mine_only)} layers quantised, left out: {left}")
    (folder / "left-out.json").write_text(json.dumps(left_out), encoding="utf-8")
    for name, each in plans.items():
        model = build_trt_decoder(config.decoder, DecoderWeights(checkpoint, peft, task), each)
        save_graph(model, folder / f"{name}.onnx", lambda size: None)


def _singles(hidden: NDArray[np.float32], run: Feeds) -> NDArray[np.float64]:
    ends = np.cumsum(run["lengths"].astype(np.int64))[:-1]
    pooled = np.split(run["pooled"].astype(bool), ends)
    rows = np.split(hidden.astype(np.float64), ends)
    means = np.stack([own[kept].mean(axis=0) for own, kept in zip(rows, pooled, strict=True)])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def measure(folder: Path, results: Path) -> None:
    """Compare vectors and add them to the results, under the folder's name."""
    runs = _read_runs(folder, "held-out")

    def outputs(name: str) -> list[NDArray[np.float32]]:
        path = folder / f"{name}.onnx"
        session = import_onnxruntime().InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        feeds = ({key: run[key] for key in INPUTS} for run in runs)
        return [np.asarray(session.run(None, each)[0]) for each in feeds]

    want = outputs("fp32")
    made = json.loads((folder / "modelopt.json").read_text(encoding="utf-8"))
    names = [f"ours-{kind}" for kind in KINDS] + list(made["made"])
    rows = []
    for name in names:
        row: dict[str, object] = {"scales": name, **made["made"].get(name, {})}
        path = folder / f"{name}.onnx"
        if path.exists():
            have = outputs(name)
            pairs = list(zip(have, want, runs, strict=True))
            singles = np.concatenate(
                [(_singles(a, r) * _singles(b, r)).sum(axis=1) for a, b, r in pairs]
            )
            tokens = np.concatenate([(_unit(a) * _unit(b)).sum(axis=1) for a, b, _ in pairs])
            graph = onnx.load(path, load_external_data=False).graph
            row |= {
                "products": sum(node.op_type == "MatMul" for node in graph.node),
                "quantise_nodes": sum(node.op_type == "QuantizeLinear" for node in graph.node),
                "single_mean": round(float(singles.mean()), 6),
                "single_worst": round(float(singles.min()), 6),
                "token_mean": round(float(tokens.mean()), 6),
                "token_worst": round(float(tokens.min()), 6),
                "lint": sorted({finding.rule for finding in lint_file(path, (89,))}),
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    known = json.loads(results.read_text()) if results.exists() else {"checkpoints": {}}
    kept: dict[str, Any] = known["checkpoints"]
    kept[folder.name] = rows
    record = {"machine": machine_record(), "modelopt": made["modelopt"], "checkpoints": kept}
    results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Take one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["prepare", "measure"])
    parser.add_argument("paths", type=Path, nargs="+")
    asked = parser.parse_args()
    steps: dict[str, Callable[..., None]] = {"prepare": prepare, "measure": measure}
    steps[asked.step](*asked.paths)


if __name__ == "__main__":
    main()
