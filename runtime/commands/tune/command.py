"""`trine tune BUNDLE`: find what runs a bundle fastest here, and keep it beside the bundle."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trine.runtime.bundle.bundle import Bundle
    from trine.runtime.commands.tune.search import Measured, Tuning

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `tune` to the program's commands."""
    parser = subparsers.add_parser(
        "tune",
        help="find what runs a bundle fastest on this machine, and keep it",
        description="Measure engines, threads and budgets on this machine and write the fastest "
        "into the bundle's folder `tuned`, where engine `auto` finds them. Weights of the native "
        "kernels are kept there packed: processes map and share them, and load in no time.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`, or a Hub id"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="to take, about (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, write, and say what was gained."""
    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.bundle.tuned_settings import TunedSettings, tuned_path, write_tuned
    from trine.runtime.commands.tune.search import tune
    from trine.runtime.errors import InputError
    from trine.runtime.hardware.cpu import read_cpu
    from trine.runtime.hub import locate_bundle

    if not arguments.seconds > 0:
        raise InputError(f"--seconds is {arguments.seconds}; give a number above 0")
    arguments.bundle = locate_bundle(arguments.bundle)
    bundle = open_bundle(arguments.bundle)
    _require_writable(tuned_path(bundle.folder))
    cpu = read_cpu()
    tuning = tune(bundle, cpu.cores, arguments.seconds, lambda m: print(_line(m), file=sys.stderr))
    best = tuning.best
    written = _write_packed(bundle, best.engine, best.threads)
    write_tuned(
        bundle.folder,
        TunedSettings(
            processor=cpu.name,
            cores=cpu.cores,
            engine=best.engine,
            threads=best.threads,
            batch_tokens=best.batch_tokens,
        ),
    )
    for line in _summary(tuning):
        print(line)
    print(f"written: {tuned_path(bundle.folder)}", end="")
    print(f" and {written / 1e6:,.0f} MB of packed weights" if written else "")
    return 0


def _require_writable(path: Path) -> None:
    """Check that the settings can be written, before time is spent on finding them."""
    import tempfile

    from trine.runtime.errors import InputError

    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as cause:
        raise InputError(
            f"{path.parent}: cannot be written ({cause.strerror}); tune keeps what it finds in the "
            "bundle: mount it writable, or tune a copy of it"
        ) from cause


def _write_packed(bundle: "Bundle", name: str, threads: int) -> int:
    """Write the packed weights of a native engine, of all its tasks; return their bytes.

    Those that were there for anything else are removed.
    """
    from trine.runtime.engines.base import EngineOptions
    from trine.runtime.engines.native.packed_file import packed_path, remove_others, write_packed
    from trine.runtime.engines.opening import open_engine
    from trine.runtime.engines.packing_engine import PackingEngine
    from trine.runtime.engines.select import engine_named

    entry = engine_named(bundle, name)
    engine = open_engine(bundle, entry, EngineOptions(threads=threads, tasks=tuple(entry.decoders)))
    if not isinstance(engine, PackingEngine):
        remove_others(bundle, ())
        return 0
    engine.open_vision()
    paths = {packed_path(bundle, graph): layers for graph, layers in engine.packed.items()}
    written = sum(write_packed(path, layers) for path, layers in paths.items())
    remove_others(bundle, paths)
    return written


def _line(measured: "Measured") -> str:
    setting = measured.setting
    query = "" if measured.query_ms is None else f", one query {measured.query_ms:.1f} ms"
    return (
        f"{setting.engine}, {setting.threads} threads, {setting.batch_tokens} tokens a run: "
        f"{measured.tokens_per_s:,.0f} tokens/s{query}"
    )


def _summary(tuning: "Tuning") -> list[str]:
    before, after, best = tuning.before, tuning.after, tuning.best
    lines = [
        f"untuned: {_line(before)}",
        f"tuned:   {_line(after)}",
        f"gained on ragged texts: {after.tokens_per_s / before.tokens_per_s:.2f} times as fast",
    ]
    rates = {m.setting.batch_tokens: m.tokens_per_s for m in tuning.budgets}
    if rates:
        default = before.setting.batch_tokens
        gain = rates[best.batch_tokens] / rates[default]
        lines.append(
            f"runs of {best.batch_tokens} tokens instead of {default}, on long texts: "
            f"{gain:.2f} times as fast"
        )
    else:
        lines.append("budgets were not tried: a call takes too long; give more --seconds")
    return lines
