"""`trine export-triton BUNDLE DIR`: write a model repository for Triton Inference Server."""

import argparse
import sys
from pathlib import Path

from trine.runtime.errors import InputError

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export-triton` to the program's commands."""
    parser = subparsers.add_parser(
        "export-triton",
        help="write a model repository for Triton Inference Server",
        description="Write a model repository for Triton Inference Server: the model `embed` from "
        "texts and images to vectors (Python backend; the server's Python needs trine "
        "installed), which calls one ONNX model for each graph. Requests are joined before the "
        "graphs run. The bundle's files are hard links, so the repository takes no space.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.add_argument("repository", metavar="DIR", type=Path, help="the folder to write")
    parser.add_argument("--engine", default="auto", metavar="NAME", help="of the bundle's engines")
    parser.add_argument(
        "--graphs",
        choices=["models", "embedded"],
        default="models",
        help="models: each graph is a model of the server; embedded: `embed` opens them itself, "
        "which is also for runtime adapters (default: models)",
    )
    parser.add_argument(
        "--device", choices=["cpu", "gpu"], default="cpu", help="of the graphs (default: cpu)"
    )
    parser.add_argument("--task", help="the adapter, for requests that name none")
    parser.add_argument(
        "--max-batch", type=int, default=64, metavar="N", help="items joined (default: 64)"
    )
    parser.add_argument(
        "--max-delay-us",
        type=int,
        default=2000,
        metavar="N",
        help="microseconds the first item waits for others (default: 2000)",
    )
    parser.add_argument(
        "--preferred",
        metavar="N,N",
        default="",
        help="batch sizes that are run without waiting further",
    )
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="of each graph (default: 1)"
    )
    parser.add_argument("--copy", action="store_true", help="copy files in place of hard links")
    parser.add_argument("--force", action="store_true", help="replace a repository that is there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the repository, and say what is in it."""
    from trine.export.triton_repository.model_config import Batching
    from trine.export.triton_repository.models import ServingChoices
    from trine.export.triton_repository.repository import write_repository
    from trine.runtime.bundle.bundle import open_bundle

    for name in ("max_batch", "max_delay_us", "instances"):
        value, least = getattr(arguments, name), 0 if name == "max_delay_us" else 1
        if value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; give at least {least}")
    bundle = open_bundle(arguments.bundle)
    models = write_repository(
        bundle,
        bundle.engine(arguments.engine),
        arguments.repository,
        ServingChoices(
            graphs=arguments.graphs,
            device=arguments.device,
            instances=arguments.instances,
            batching=Batching(
                max_items=arguments.max_batch,
                max_delay_us=arguments.max_delay_us,
                preferred=_sizes(arguments.preferred, arguments.max_batch),
            ),
            default_task=arguments.task,
        ),
        copy=arguments.copy,
        force=arguments.force,
    )
    print(f"{arguments.repository}: {', '.join(model.name for model in models)}", file=sys.stderr)
    print(f"serve it with: tritonserver --model-repository {arguments.repository}", file=sys.stderr)
    return 0


def _sizes(text: str, most: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if any(not word.isdecimal() or not 1 <= int(word) <= most for word in words):
        raise InputError(f"--preferred is {text!r}; give sizes from 1 to {most} with commas")
    return tuple(sorted({int(word) for word in words}))
