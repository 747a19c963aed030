"""Measures a bundle's engines on a GPU and sets the rates beside the data sheet's predictions.

Texts of several lengths and pages of one size are embedded from start to end (preparation on the
processor, copies and the graphs) by each way to run the bundle's graphs on a GPU. Each run is
warmed up first; the median of the repeats counts. The JSON has for each run the measured and the
predicted tokens or pages a second. Without a GPU nothing is measured, and the exit code is 3.

    python benchmarks/gpu.py BUNDLE [--engine NAME …] --out benchmarks/results/DATE-GPU-gpu.json
    python benchmarks/roofline_page.py

The second line puts what was measured beside the predictions of docs/roofline.md.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import machine_record
from roofline.devices import RatePrecision, sheet_of
from roofline.page import A4_150_DPI, IMAGE_RUNS, TEXT_RUNS
from roofline.tables import (
    Workload,
    image_workload,
    rate_value,
    text_workload,
)

from trine.runtime.bundle.bundle import TOKENIZER_NAME, Bundle, open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.engines.gpu.entries import ways_to_run
from trine.runtime.engines.select import engine_named
from trine.runtime.errors import EngineError, TrineError
from trine.runtime.hardware.machine import Driver, Gpu
from trine.runtime.hardware.nvidia import read_driver
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import ImageText, Item
from trine.runtime.preprocessing.tokenizer import TextTokenizer

#: Exit codes besides 0: an engine could not be measured; there is no GPU.
FAILED, NO_GPU = 1, 3
#: What the data sheets call an engine's precision; float32 products run as TF32 by default on CUDA.
RATES: Mapping[str, RatePrecision] = {
    "fp32": "tf32",
    "bf16": "bf16",
    "fp16": "bf16",
    "fp8": "fp8",
    "int8": "int8",
    "int4": "bf16",  # of weights alone
}
#: One token in the published vocabulary, with the space before it.
WORD = " word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Items to embed, and the workload they are to the roofline."""

    items: tuple[Item, ...]
    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One line of the result.

    Attributes:
        engine, precision, description: what ran; the engine's own words on where.
        run: what went in.
        unit: of the rates, "tokens" or "pages" a second.
        seconds: of each repeat.
        measured: median rate.
        predicted: best rate by the data sheet; None for a GPU that is not listed.
        share: measured over predicted.
        golden_cosine: worst of the bundle's golden texts with the float32 reference.
    """

    engine: str
    precision: str
    description: str
    run: str
    unit: str
    seconds: tuple[float, ...]
    measured: float
    predicted: float | None
    share: float | None
    golden_cosine: float


def main(read: Callable[[], Driver] = read_driver) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="a folder of `trine export`")
    parser.add_argument(
        "--engine",
        action="append",
        help="may be repeated (default: every way to run the bundle's graphs on a GPU)",
    )
    parser.add_argument("--repeats", type=int, default=7, help="of each run (default: 7)")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    driver = read()
    if not driver.gpus:
        print(f"no GPU: {driver.problem}; nothing was measured", file=sys.stderr)
        return NO_GPU
    bundle = open_bundle(arguments.bundle)
    engines = arguments.engine or gpu_engines(bundle)
    found, failures = [], {}
    for name in engines:
        try:
            found += measure_engine(bundle, name, driver.gpus[0], arguments.repeats)
        except TrineError as error:
            failures[name] = str(error)
            print(f"{name}: not measured: {error}", file=sys.stderr)
    line = json.dumps(
        {
            "benchmark": "gpu",
            "device": asdict(driver.gpus[0]),
            "driver": driver.version,
            "cuda": driver.cuda,
            "measured": [asdict(measurement) for measurement in found],
            "failures": failures,
            **machine_record(),
        }
    )
    print(line)
    if arguments.out is not None:
        arguments.out.write_text(line + "\n", encoding="utf-8")
    return FAILED if failures else 0


def gpu_engines(bundle: Bundle) -> list[str]:
    """Return the names of the bundle's engines by each runner of a GPU; all if it has none."""
    listed = bundle.manifest.engines
    ways = [
        f"{e.name}:{w.runner}" for e in listed if e.runner == "tensorrt" for w in ways_to_run(e)
    ]
    return ways or [entry.name for entry in listed]


def measure_engine(bundle: Bundle, name: str, gpu: Gpu, repeats: int) -> list[Measurement]:
    """Return a measurement for each run.

    Raises:
        TrineError: the engine cannot run here, or failed its self-test.
    """
    entry = engine_named(bundle, name)
    task = next(iter(entry.decoders))
    sheet, precision = sheet_of(gpu.name), RATES.get(entry.precision)
    merged = entry.adapters == "merged"
    found = []
    for run in make_runs(bundle, 0 if merged else bundle.manifest.adapters.max_rank):
        limits = BatchLimits(
            tokens=run.workload.tokens,
            window_tokens=max(run.workload.tokens, BatchLimits().window_tokens),
        )
        embedder = Embedder.load(
            bundle.folder, engine=name, device=gpu.index, tasks=[task], limits=limits
        )
        description = embedder.description
        if "CPU" in description:
            raise EngineError(f"it runs on processors here ({description})")
        seconds = time_run(embedder, run.items, task, repeats)
        rate = run.workload.count / statistics.median(seconds)
        best = None
        if sheet is not None and precision is not None:
            best = rate_value(run.workload, sheet, precision)
        measurement = Measurement(
            engine=name,
            precision=entry.precision,
            description=description,
            run=run.workload.label,
            unit=run.workload.unit,
            seconds=tuple(seconds),
            measured=rate,
            predicted=best,
            share=None if best is None else rate / best,
            golden_cosine=min(d.min_cosine for d in embedder.deviations("text")),
        )
        beside = "" if best is None else f", predicted best {best:,.0f}"
        print(
            f"{name}, {measurement.run}: {rate:,.1f} {measurement.unit}/s{beside}", file=sys.stderr
        )
        found.append(measurement)
    return found


def make_runs(bundle: Bundle, lora_rank: int) -> Iterator[Run]:
    """Yield the runs of docs/roofline.md, with the bundle's model.

    Args:
        bundle: for its numbers and tokenizer.
        lora_rank: of the adapter added at run time; 0 where it is merged.
    """
    model = bundle.manifest.model
    tokenizer = TextTokenizer(bundle.path(TOKENIZER_NAME))
    for batch, length in TEXT_RUNS:
        yield Run(
            items=tuple(make_text(tokenizer, length) for _ in range(batch)),
            workload=text_workload(model, batch, length, lora_rank),
        )
    scaffold = tokenizer.scaffold
    around = len(scaffold.head) + len(scaffold.text) + len(scaffold.tail) + 2
    source = np.random.default_rng(0)
    for batch in IMAGE_RUNS:
        pages = source.integers(0, 256, (batch, *A4_150_DPI, 3), np.uint8)
        yield Run(
            items=tuple(ImageText((page,)) for page in pages),
            workload=image_workload(model, batch, A4_150_DPI, around, lora_rank),
        )


def make_text(tokenizer: TextTokenizer, length: int) -> str:
    """Return a text whose query has exactly `length` tokens, its prefix included.

    Raises:
        ValueError: the tokenizer has no such text of repeated words.
    """
    count = 1
    while True:
        text = WORD.strip() + WORD * count
        (ids,) = tokenizer.encode([f"Query: {text}"])
        if len(ids) == length:
            return text
        if len(ids) > length:
            raise ValueError(f"no text of {length} tokens: {count} words have {len(ids)}")
        count += max(1, (length - len(ids)) // 2)


def time_run(embedder: Embedder, items: Sequence[Item], task: str, repeats: int) -> list[float]:
    """Return the seconds of each repeat, after two runs that do not count."""
    seconds = []
    for repeat in range(-2, repeats):
        start = time.perf_counter()
        embedder.encode(items, task)
        if repeat >= 0:
            seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
