"""Measures Trine against its peers: same weights, same inputs, a process each, rounds in turn.

    trine sample-checkpoint SLICE --size slice
    trine export SLICE BUNDLE --precision int8 --precision fp32
    python benchmarks/run.py --checkpoint SLICE --bundle BUNDLE --out benchmarks/results/NAME.json

Cases and peers are all of them unless named. A peer whose packages are missing is reported as
missing. PyTorch and OpenVINO may live in environments of their own: --torch-python and
--openvino-python. Beside the JSON go tables (.md), plots (.png) and a page (.html), which `--report
FILE.json` makes again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from cases.case import CASES, Case, shrunk
from machine import machine_record
from numpy.typing import NDArray
from peers.contract import Setup
from peers.messages import Order
from peers.registry import PEERS, contestants_of
from peers.rounds import Arena, run_case
from report.record import Record, Row, rows_of, write_record

from trine.runtime.bundle import Bundle, open_bundle
from trine.runtime.errors import DependencyError

EXPORTER = Path(__file__).parent / "peers" / "plain_export.py"


def main() -> None:
    arguments = parsed()
    if arguments.report is not None:
        report(arguments.report)
        return
    bundle = open_bundle(arguments.bundle)
    setup = setup_of(arguments, bundle)
    engines = arguments.engine or [entry.name for entry in bundle.manifest.engines]
    peers = [] if arguments.peer == ["none"] else arguments.peer or list(PEERS)
    if any(PEERS[peer].exported for peer in peers):
        make_plain_export(arguments, setup)
    rows: list[Row] = []
    for name in arguments.case or list(CASES):
        case = shrunk(CASES[name]) if arguments.small else CASES[name]
        case = replace(case, alone=case.alone or arguments.alone)
        say(f"{case.name}: {case.title}")
        rows += measured(arguments, setup, case, contestants_of(case, engines, peers))
        # After each case, so that what is done is not lost.
        record = Record(machine=machine_record(), settings=settings(arguments), rows=rows)
        write_record(arguments.out, record)
    report(arguments.out)


def measured(
    arguments: argparse.Namespace, setup: Setup, case: Case, contestants: Sequence[str]
) -> list[Row]:
    """Return the rows of a case."""
    logs = arguments.work / "logs" / case.name
    for stale in logs.glob("*.npy"):
        stale.unlink()

    def order(contestant: str) -> Order:
        return Order(contestant=contestant, case=case.name, small=arguments.small, setup=setup)

    def python(contestant: str) -> Path:
        if contestant == "reference":
            return Path(arguments.torch_python)
        peer = PEERS.get(contestant)
        environment = "trine" if peer is None else peer.environment
        named = {
            "torch": arguments.torch_python,
            "torchvision": arguments.torchvision_python or arguments.torch_python,
            "openvino": arguments.openvino_python,
        }
        return Path(named.get(environment, sys.executable))

    arena = Arena(rounds=arguments.rounds, order=order, python=python, logs=logs, said=say)
    reference = None
    if arguments.quality and case.kind in ("texts", "images", "mixed"):
        reference = reference_vectors(arena, arguments.work, case)
    return rows_of(case, run_case(arena, case, contestants, reference))


def reference_vectors(arena: Arena, work: Path, case: Case) -> NDArray[np.float32] | None:
    """Return float32 [items, hidden] of float32 PyTorch, kept in the work folder once made."""
    path = work / "reference" / f"{case.name}{case.lengths[:2]}{case.pictures[:1]}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with arena.start("reference") as process:
            if not process.save_vectors(path):
                say(f"  no float32 reference, so no cosines: {process.opened}")
                return None
    vectors: NDArray[np.float32] = np.load(path)
    return vectors


def make_plain_export(arguments: argparse.Namespace, setup: Setup) -> None:
    """Export the text part with torch.onnx.export, unless the work folder has it."""
    if (setup.work / "plain-int8.onnx").exists():
        return
    say("exporting the text part with torch.onnx.export, once")
    setup.work.mkdir(parents=True, exist_ok=True)
    with (setup.work / "plain-export.log").open("wb") as log:
        paths = [setup.checkpoint, setup.bundle, setup.work, setup.task]
        run = subprocess.run(
            [arguments.torch_python, EXPORTER, *map(str, paths)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if run.returncode:
        say(f"  failed, so peers that need it will fail too; see {setup.work}/plain-export.log")


def setup_of(arguments: argparse.Namespace, bundle: Bundle) -> Setup:
    """Return what all contestants are loaded from."""
    model = bundle.manifest.model
    config = json.loads((arguments.checkpoint / "config.json").read_text(encoding="utf-8"))
    named = {value for key, value in config.items() if key.endswith("_token_id")}
    return Setup(
        checkpoint=arguments.checkpoint.resolve(),
        bundle=arguments.bundle.resolve(),
        work=arguments.work.resolve(),
        task=arguments.task,
        threads=arguments.threads or machine_threads(),
        num_ids=model.decoder.vocab_size,
        excluded=tuple(sorted(id for id in named if isinstance(id, int))),
    )


def machine_threads() -> int:
    threads = machine_record()["threads"]
    assert isinstance(threads, int)
    return threads


def settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the run's settings for its record; paths by their last part."""
    return {
        "checkpoint": arguments.checkpoint.name,
        "bundle": arguments.bundle.name,
        "task": arguments.task,
        "threads": arguments.threads or machine_threads(),
        "rounds": arguments.rounds,
        "small": arguments.small,
    }


def report(path: Path) -> None:
    from report.writing import write_report

    try:
        written = write_report(path)
    except DependencyError as error:
        sys.exit(f"{path} is written; no report of it: {error}")
    for file in [path, *written]:
        print(file)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, help="the published layout; all contestants' weights")
    add("--bundle", type=Path, help="what `trine export` made of it")
    add("--case", action="append", choices=list(CASES), help="may be repeated (default: all)")
    add("--engine", action="append", help="of the bundle; may be repeated (default: all)")
    add("--peer", action="append", choices=[*PEERS, "none"], help="may be repeated (default: all)")
    add("--task", default="retrieval", help="the adapter merged in (default: %(default)s)")
    add("--rounds", type=int, default=5, help="interleaved (default: %(default)s)")
    add("--threads", type=int, help="of each contestant (default: one a processor)")
    add("--torch-python", default=sys.executable, help="interpreter with torch and transformers")
    add("--torchvision-python", help="interpreter with torchvision too (default: --torch-python)")
    add("--openvino-python", default=sys.executable, help="interpreter with openvino and nncf")
    add("--work", type=Path, default=Path("build/benchmarks"), help="exports, logs, references")
    add("--no-quality", dest="quality", action="store_false", help="no float32 reference run")
    add("--alone", action="store_true", help="never two contestants in memory, in any case")
    add("--small", action="store_true", help="cases at a sixteenth, to try contestants")
    add("--out", type=Path, default=Path("build/benchmarks/run.json"), help="the JSON")
    add("--report", type=Path, metavar="JSON", help="only make the report of this run again")
    arguments = parser.parse_args()
    if arguments.report is None and (arguments.checkpoint is None or arguments.bundle is None):
        parser.error("--checkpoint and --bundle are needed")
    return arguments


if __name__ == "__main__":
    main()
