"""Times a decoder with adapters beside it against decoders with the adapters merged in.

Runs both bundles' decoders in turn on the same random tokens, as one text of 512 tokens and as 8
texts of up to 64 tokens, for one task; and the 8 texts once more with three tasks mixed in one run.
Printed are medians and the median of each round's ratio; the last line is JSON.

    trine sample-checkpoint SLICE --size slice
    trine export SLICE MERGED --adapters merged --tasks retrieval
    trine export SLICE RUNTIME --adapters runtime
    python benchmarks/adapter_cost.py MERGED RUNTIME [--rounds 9] [--out FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from machine import machine_record

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.base import DecoderInputs, Engine, EngineOptions
from trine.runtime.engines.opening import open_engine
from trine.runtime.inference.runner import lay_out_sequences
from trine.runtime.preprocessing.sequence import text_sequence


def decoder_inputs(lengths: list[int], model: ModelConfig) -> DecoderInputs:
    """Return packed sequences of random embeddings."""
    rng = np.random.default_rng(0)
    sequences = [text_sequence(np.arange(length), length) for length in lengths]
    shape = (sum(lengths), model.decoder.hidden_size)
    return lay_out_sequences(sequences, rng.standard_normal(shape).astype(np.float32), model)


def opened(folder: Path, tasks: tuple[str, ...]) -> tuple[Engine, ModelConfig]:
    bundle = open_bundle(folder)
    entry = bundle.engine("auto")
    engine = open_engine(bundle, entry, EngineOptions(threads=None, tasks=tasks))
    return engine, bundle.manifest.model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("merged", type=Path)
    parser.add_argument("runtime", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    tasks = tuple(open_bundle(arguments.runtime).engine("auto").decoders)
    merged, model = opened(arguments.merged, tasks[:1])
    runtime, _ = opened(arguments.runtime, tasks)
    ragged = [64, 27, 51, 40, 64, 18, 33, 55]
    cases = {"1x512": [512], "8x64 ragged": ragged}
    result: dict[str, dict[str, float]] = {}
    with merged.adapters.hold(tasks[:1]) as own, runtime.adapters.hold(tasks) as handles:
        for case, lengths in cases.items():
            inputs = decoder_inputs(lengths, model)
            rows = len(lengths)
            variants: dict[str, tuple[Engine, list[AdapterHandle]]] = {
                "merged": (merged, [own[tasks[0]]] * rows),
                "runtime, one task": (runtime, [handles[tasks[0]]] * rows),
            }
            if rows >= len(tasks) > 1:
                mixed = [handles[tasks[row % len(tasks)]] for row in range(rows)]
                variants[f"runtime, {len(tasks)} tasks mixed"] = (runtime, mixed)
            result[case] = measure(variants, inputs, arguments.rounds, case)
    record = {
        "benchmark": "adapter_cost",
        "results": result,
        "rounds": arguments.rounds,
        "layers": model.decoder.num_layers,
        "hidden": model.decoder.hidden_size,
        **machine_record(),
    }
    line = json.dumps(record)
    print(line)
    if arguments.out is not None:
        arguments.out.write_text(line + "\n", encoding="utf-8")


def measure(
    variants: dict[str, tuple[Engine, list[AdapterHandle]]],
    inputs: DecoderInputs,
    rounds: int,
    case: str,
) -> dict[str, float]:
    """Return, per variant, the median in ms and the median of the rounds' ratios to merged."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, (engine, adapters) in variants.items():
            started = time.perf_counter()
            engine.forward_decoder(inputs, adapters)
            times[name].append(time.perf_counter() - started)
    result = {}
    base = times["merged"][1:]
    for name, seconds in times.items():
        milliseconds = statistics.median(seconds[1:]) * 1000
        ratio = statistics.median(a / b for a, b in zip(seconds[1:], base, strict=True))
        result[f"{name}, ms"], result[f"{name}, ratio"] = round(milliseconds, 1), round(ratio, 3)
        print(f"{case:<12} {name:<24} {milliseconds:8.1f} ms   {ratio:.3f} × merged")
    return result


if __name__ == "__main__":
    main()
