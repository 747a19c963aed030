"""`trine bench BUNDLE`: how fast its engines run here, and where the time goes."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trine.runtime.commands.engine_options import ENGINE_HELP, add_device

if TYPE_CHECKING:
    from trine.runtime.commands.bench.measure import OpenedEngine
    from trine.runtime.commands.bench.workloads import Workload

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench` to the program's commands."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast a bundle's engines run here",
        description="Time each engine on one short query, 8 ragged texts, 4 texts of 512 tokens "
        "and one page image, from token ids and patches to vectors; print rates, latencies and "
        "memory. Inputs are random, the same every time.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`, or a Hub id"
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        action="append",
        default=[],
        help=f"{ENGINE_HELP}; may be repeated (default: all of the bundle's that the processor can "
        "run, one after the other)",
    )
    add_device(parser)
    parser.add_argument(
        "--case",
        metavar="NAME",
        action="append",
        default=[],
        help="query, ragged, passages or page; may be repeated (default: all)",
    )
    parser.add_argument("--task", help="the adapter (default: the bundle's first)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of one run (default: one a processor)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also say where the time goes, by stage and by class of operator, and the rate of "
        "matrix products",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the engines one after the other; print tables, or the JSON, to stdout."""
    import json

    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.commands.bench.measure import open_for_bench
    from trine.runtime.engines.native.entries import runs_here
    from trine.runtime.engines.select import engine_named, engines_of
    from trine.runtime.errors import InputError
    from trine.runtime.hub import locate_engines

    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads is {arguments.threads}; give at least 1")
    workloads = _workloads(arguments.case)
    arguments.bundle = locate_engines(arguments.bundle, arguments.engine or (), arguments.device)
    bundle = open_bundle(arguments.bundle)
    names = arguments.engine or [entry.name for entry in engines_of(bundle) if runs_here(entry)]
    results = []
    for entry in [engine_named(bundle, name) for name in dict.fromkeys(names)]:
        task = arguments.task or next(iter(entry.decoders))
        if task not in entry.decoders:
            raise InputError(f"--task is {task!r}; {entry.name} has {list(entry.decoders)}")
        opened = open_for_bench(bundle, entry, task, arguments.threads, arguments.device)
        results.append(_run_engine(arguments, opened, workloads))
    if arguments.json:
        print(json.dumps({"engines": results}, indent=2))
    return 0


def _workloads(names: list[str]) -> "list[Workload]":
    from trine.runtime.commands.bench.workloads import WORKLOADS
    from trine.runtime.errors import InputError

    known = {workload.name: workload for workload in WORKLOADS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"--case is {unknown[0]!r}; known are {list(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(WORKLOADS)


def _run_engine(
    arguments: argparse.Namespace, opened: "OpenedEngine", workloads: "list[Workload]"
) -> dict[str, Any]:
    """Measure one engine, print its tables unless JSON is wanted, and return its object."""
    from dataclasses import asdict

    from trine.runtime.commands.bench.measure import measure_workload
    from trine.runtime.commands.bench.profile import profile_workload, profiling_engine
    from trine.runtime.commands.bench.report import engine_lines, profile_lines

    if arguments.profile:
        profiling_engine(opened)
    results = []
    for workload in workloads:
        print(f"{opened.entry.name}: {workload.title}", file=sys.stderr)
        results.append(measure_workload(opened, workload))
    found: dict[str, Any] = {
        "engine": opened.entry.name,
        "precision": opened.entry.precision,
        "task": opened.task,
        "load_s": opened.load_s,
        "load_bytes": opened.load_bytes,
        "results": [asdict(result) for result in results],
    }
    if not arguments.json:
        for line in engine_lines(opened, results):
            print(line)
    if arguments.profile:
        profiles = [profile_workload(opened, workload) for workload in workloads]
        found["profiles"] = [asdict(profile) for profile in profiles]
        if not arguments.json:
            for profile in profiles:
                for line in profile_lines(profile):
                    print(line)
    return found
