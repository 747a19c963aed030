"""Measures Trine against its competitors: same weights and inputs, a process each, in turn.

    trine sample-checkpoint SLICE --size slice
    trine export SLICE BUNDLE --precision int8 --precision fp32
    python benchmarks/run.py --checkpoint SLICE --bundle BUNDLE --out benchmarks/results/NAME.json

benchmarks/README.md says how to prepare environments and files, and what a whole run takes. Cases,
engines and competitors are all of them unless named. A competitor whose packages are missing is
reported as missing. Beside the JSON go tables (.md), plots (.png) and a page (.html), which
`--report FILE.json` makes again.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from backends.contract import Setup
from backends.engines import choose_engines
from backends.messages import Order
from backends.preparation import prepare
from backends.registry import COMPETITORS, backends_of
from backends.rounds import Arena, run_case
from cases.case import CASES, Case, shrunk
from machine import machine_record
from numpy.typing import NDArray
from peaks.meters import measure_peaks
from report.record import Record, Row, read_record, rows_of, write_record
from report.summary import goal_lines, replace_block
from roofline.stages import text_stages

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.errors import DependencyError

#: Competitors that load a published checkpoint as it is: those for a cold start of another one.
LOAD_PUBLISHED = ("transformers-bf16",)


def main() -> None:
    arguments = parsed()
    if arguments.report is not None:
        report(arguments)
        return
    setup, model = setup_of(arguments)
    cold = setup if arguments.cold_bundle is None else cold_setup(arguments, setup)
    competitors = [] if arguments.competitor == ["none"] else arguments.competitor
    cases = [CASES[name] for name in arguments.case or CASES]
    entrants = {
        case.name: backends_of(case, (cold if case.kind == "cold" else setup).engines, competitors)
        for case in cases
    }
    if cold is not setup and "cold" in entrants:
        entrants["cold"] = [
            name for name in entrants["cold"] if name not in COMPETITORS or name in LOAD_PUBLISHED
        ]
    taking_part = {name for names in entrants.values() for name in names if name in COMPETITORS}
    python = interpreters(arguments)
    prepare(setup, {step for name in taking_part for step in COMPETITORS[name].makes}, python, say)
    if arguments.prepare:
        for case in cases:
            reference_vectors(arena_of(arguments, setup, case), arguments.work, case)
        return
    previous = read_record(arguments.out) if arguments.add and arguments.out.exists() else None
    done = {case.name for case in cases}
    rows = [row for row in previous.rows if row.case not in done] if previous else []
    peaks = dict(previous.peaks) if previous else {}
    if arguments.peaks:
        decoder = model.decoder
        sizes = (decoder.hidden_size, decoder.intermediate_size)
        peaks = measure_peaks(setup, *sizes, python, say) or peaks
    for named in cases:
        case = shrunk(named) if arguments.small else named
        say(f"{case.name}: {case.title}")
        measured_by = cold if case.kind == "cold" else setup
        rows += measured(arguments, measured_by, case, entrants[case.name])
        # After each case, so that what is done is not lost.
        record = Record(
            machine=machine_record(),
            settings=settings(arguments),
            rows=rows,
            peaks=peaks,
            operations=linear_operations(model, [row.case for row in rows], arguments.small),
        )
        write_record(arguments.out, record)
    report(arguments)


def measured(
    arguments: argparse.Namespace, setup: Setup, case: Case, backends: Sequence[str]
) -> list[Row]:
    """Return the rows of a case."""
    arena = arena_of(arguments, setup, case)
    for stale in arena.logs.glob("*.npy"):
        stale.unlink()
    reference = None
    if arguments.quality and case.kind in ("texts", "images", "mixed"):
        reference = reference_vectors(arena, arguments.work, case)
    precisions = {engine.backend: engine.precision for engine in setup.engines}
    return rows_of(case, run_case(arena, case, backends, reference), precisions)


def arena_of(arguments: argparse.Namespace, setup: Setup, case: Case) -> Arena:
    """Return where a case is measured."""
    python = interpreters(arguments)

    def interpreter(backend: str) -> Path:
        if backend == "reference":
            return python("torch")
        competitor = COMPETITORS.get(backend)
        return python("trine" if competitor is None else competitor.environment)

    return Arena(
        rounds=arguments.rounds,
        order=lambda backend: Order(
            backend=backend, case=case.name, small=arguments.small, setup=setup
        ),
        python=interpreter,
        logs=arguments.work.resolve() / "logs" / case.name,
        said=say,
        alone=arguments.alone,
    )


def interpreters(arguments: argparse.Namespace) -> Callable[[str], Path]:
    """Return what finds an environment's interpreter."""
    torch = arguments.torch_python or sys.executable
    named = {
        "trine": sys.executable,
        "torch": torch,
        "torchvision": arguments.torchvision_python or torch,
        "openvino": arguments.openvino_python or torch,
        "llama": arguments.llama_python or torch,
    }
    # Not resolved: a virtual environment's interpreter is a link, and its place is what counts.
    return lambda environment: Path(named[environment]).absolute()


def reference_vectors(arena: Arena, work: Path, case: Case) -> NDArray[np.float32] | None:
    """Return float32 [items, hidden] of float32 PyTorch, kept in the work folder once made."""
    if case.kind not in ("texts", "images", "mixed"):
        return None
    shape = hashlib.sha256(repr((case.lengths, case.images)).encode()).hexdigest()[:8]
    path = work.resolve() / "reference" / f"{case.name}-{shape}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        say(f"  float32 reference of {case.name}, once")
        with arena.start("reference") as process:
            if not process.save_vectors(path):
                say(f"  no float32 reference, so no cosines: {process.opened}")
                return None
    vectors: NDArray[np.float32] = np.load(path)
    return vectors


def setup_of(arguments: argparse.Namespace) -> tuple[Setup, ModelConfig]:
    """Return what all backends are loaded from, and the model's numbers."""
    bundle = open_bundle(arguments.bundle)
    model = bundle.manifest.model
    config = json.loads((arguments.checkpoint / "config.json").read_text(encoding="utf-8"))
    named = {value for key, value in config.items() if key.endswith("_token_id")}
    setup = Setup(
        checkpoint=arguments.checkpoint.resolve(),
        bundle=arguments.bundle.resolve(),
        work=arguments.work.resolve(),
        task=arguments.task,
        threads=arguments.threads or machine_threads(),
        num_ids=model.decoder.vocab_size,
        excluded=tuple(sorted(id for id in named if isinstance(id, int))),
        engines=choose_engines(arguments.engine, arguments.bundle),
    )
    return setup, model


def cold_setup(arguments: argparse.Namespace, setup: Setup) -> Setup:
    """Return the setup of cold starts: another checkpoint, and the engines of another bundle."""
    folder = arguments.cold_bundle.resolve()
    return replace(
        setup,
        checkpoint=arguments.cold_checkpoint.resolve(),
        bundle=folder,
        engines=choose_engines(arguments.cold_engine, folder),
    )


def linear_operations(model: ModelConfig, cases: Sequence[str], small: bool) -> dict[str, int]:
    """Return the operations of the decoder's linear layers in each case of texts."""
    found = {}
    for name in cases:
        case = shrunk(CASES[name]) if small else CASES[name]
        if case.kind == "texts":
            stages = text_stages(model, case.lengths)
            found[name] = sum(stage.operations for stage in stages if stage.kind == "linear")
    return found


def machine_threads() -> int:
    threads = machine_record()["threads"]
    assert isinstance(threads, int)
    return threads


def settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the run's settings for its record; paths by their last part."""
    return {
        "checkpoint": arguments.checkpoint.name,
        "bundle": arguments.bundle.name,
        "cold": None if arguments.cold_checkpoint is None else arguments.cold_checkpoint.name,
        "task": arguments.task,
        "threads": arguments.threads or machine_threads(),
        "rounds": arguments.rounds or "by case",
        "small": arguments.small,
    }


def report(arguments: argparse.Namespace) -> None:
    from report.writing import write_report

    path = arguments.report or arguments.out
    try:
        written = write_report(path)
    except DependencyError as error:
        sys.exit(f"{path} is written; no report of it: {error}")
    if arguments.readme is not None:
        replace_block(arguments.readme, [*goal_lines(read_record(path))])
        written.append(arguments.readme)
    for file in [path, *written]:
        print(file)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, help="the published layout; all backends' weights")
    add("--bundle", type=Path, help="what `trine export` made of it")
    add("--case", action="append", choices=list(CASES), help="may be repeated (default: all)")
    add(
        "--engine",
        action="append",
        default=[],
        metavar="[LABEL=]NAME[@BUNDLE]",
        help="of --bundle or another; may be repeated (default: all of --bundle)",
    )
    add(
        "--competitor",
        action="append",
        choices=[*COMPETITORS, "none"],
        help="may be repeated (default: all)",
    )
    add("--task", default="retrieval", help="the adapter merged in (default: %(default)s)")
    add("--rounds", type=int, help="interleaved (default: as the case says, 5 for most)")
    add("--threads", type=int, help="of each backend (default: one a processor)")
    add("--cold-checkpoint", type=Path, help="for cold starts (default: --checkpoint)")
    add("--cold-bundle", type=Path, help="made of it")
    add("--cold-engine", action="append", default=[], help="as --engine, of --cold-bundle")
    add("--torch-python", help="interpreter with torch and transformers (default: this one)")
    add("--torchvision-python", help="interpreter with torchvision too (default: --torch-python)")
    add("--openvino-python", help="interpreter with openvino and nncf (default: --torch-python)")
    add("--llama-python", help="interpreter with llama_cpp and gguf (default: --torch-python)")
    add("--work", type=Path, default=Path("build/benchmarks"), help="exports, logs, references")
    add("--prepare", action="store_true", help="only make what competitors and cosines need")
    add("--no-quality", dest="quality", action="store_false", help="no float32 reference run")
    add("--no-peaks", dest="peaks", action="store_false", help="do not measure the machine's peaks")
    add("--alone", action="store_true", help="keep no backend between its rounds")
    add("--small", action="store_true", help="cases at a sixteenth, to try backends")
    add("--out", type=Path, default=Path("build/benchmarks/run.json"), help="the JSON")
    add("--add", action="store_true", help="keep --out's other cases")
    add("--report", type=Path, metavar="JSON", help="only make the report of this run again")
    add("--readme", type=Path, metavar="PAGE", help="also write the table into a page's marks")
    arguments = parser.parse_args()
    if arguments.report is None and (arguments.checkpoint is None or arguments.bundle is None):
        parser.error("--checkpoint and --bundle are needed")
    if (arguments.cold_checkpoint is None) != (arguments.cold_bundle is None):
        parser.error("--cold-checkpoint and --cold-bundle belong together")
    return arguments


if __name__ == "__main__":
    main()
