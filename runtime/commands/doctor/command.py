"""`trine doctor [BUNDLE]`: what this machine can run, what is missing, how to mend it."""

import argparse
from pathlib import Path

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor` to the program's commands."""
    parser = subparsers.add_parser(
        "doctor",
        help="show what this machine can run, and what is missing",
        description="Probe processors, memory, GPUs, NVIDIA's driver, ONNX Runtime's providers "
        "(each by a session of its own, in a process of its own) and TensorRT, and say what does "
        "not fit together and how to mend it. With BUNDLE: which of its engines can run here. The "
        "exit code is 0 if an engine can run.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, nargs="?", help="a folder of `trine export`"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report to stdout; return 0 if an engine can run, else 1."""
    import json

    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.commands.doctor.advice import advise
    from trine.runtime.commands.doctor.report import Report, report_lines, report_object
    from trine.runtime.commands.doctor.survey import survey_machine
    from trine.runtime.commands.doctor.verdict import judge_engine, judge_runners, needs_of
    from trine.runtime.engines.select import engines_of

    bundle = None if arguments.bundle is None else open_bundle(arguments.bundle)
    machine = survey_machine()
    if bundle is None:
        verdicts = judge_runners(machine)
    else:
        entries = engines_of(bundle)
        verdicts = tuple(
            judge_engine(needs, machine)
            for entry in entries
            for needs in needs_of(entry, str(bundle.folder))
        )
    report = Report(
        machine=machine,
        verdicts=verdicts,
        advice=advise(machine),
        bundle=None if bundle is None else str(bundle.folder),
    )
    if arguments.json:
        print(json.dumps(report_object(report), indent=2))
    else:
        for line in report_lines(report):
            print(line)
    return 0 if report.can_run else 1
