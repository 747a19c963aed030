"""`trine serve BUNDLE`: the HTTP server."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from trine.runtime.errors import missing_package

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve` to the program's commands."""
    parser = subparsers.add_parser(
        "serve",
        usage="trine serve BUNDLE [options]",
        help="serve vectors over HTTP",
        description="Serve vectors over HTTP: the embedding APIs of OpenAI, Jina, "
        "text-embeddings-inference and KServe, with a web page at /. Every option may also be set "
        "in the environment (TRINE_ and its name in upper case) or in the file of --config; flags "
        "come first, then the environment, then the file.",
    )
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        type=Path,
        nargs="?",
        help="a folder of `trine export`, or a Hub id",
    )
    from trine.runtime.serving.config.settings_sources import add_flags

    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to end."""
    from trine.runtime.serving.config.settings_sources import CONFIG_VARIABLE, read_settings

    config = os.environ.get(CONFIG_VARIABLE)
    settings = read_settings(
        vars(arguments), os.environ, arguments.config or (Path(config) if config else None)
    )
    try:
        from trine.runtime.serving.workers.server import serve
    except ImportError as cause:
        raise missing_package(cause.name or "starlette", "server", "to serve") from cause
    from trine.runtime.hub import locate_bundle

    folder = locate_bundle(
        settings.bundle,
        engine=settings.engine,
        quality=settings.quality,
        device=settings.device,
        tasks=settings.tasks or None,
    )
    return serve(replace(settings, bundle=folder))
