"""`trine build BUNDLE`: make TensorRT engines of a bundle's graphs, ahead of time."""

import argparse
import sys
from pathlib import Path
from typing import Literal

from trine.runtime.commands.progress import format_bytes
from trine.runtime.errors import BundleError, InputError, missing_package

__all__ = ["register", "run"]

#: Graphics processors of the RTX 30, 40 and 50 series.
DEFAULT_SMS = "86,89,120"
#: Runs of many sequences go through a model in passes of 2,048 tokens, whose products any GPU of
#: `trine.runtime.commands.roofline.devices` computes for at least five times as long as it takes to read the
#: weights: more tokens at once would take more memory and hardly less time. Passes of 2,048 tokens
#: are of short texts, of passages, or of two long ones; each has a padded view of 4,096 slots.
#: Beside them: a few queries, and single texts of up to 8,192 and of 32,768 tokens, the longest.
#: Images cannot be divided: a page of 1024 × 1024 pixels, and one of 1792 × 1792.
DEFAULT_BUCKETS = (
    "text=256x8x64,text=2048x32x128,text=2048x8x512,text=2048x2x2048,"
    "text=8192x1x8192,text=32768x1x32768,image=5184x1,image=16384x1"
)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `build` to the program's commands."""
    parser = subparsers.add_parser(
        "build",
        help="make TensorRT engines of a bundle's graphs",
        description="Make engines of the TensorRT graphs in a bundle. TensorRT-RTX builds on any "
        "machine, for the processors named; TensorRT builds for the processor it runs on. An "
        "engine that was built before from the same graph, buckets and version is kept. Engines "
        "are written into the bundle and its manifest; one for the same graph and processor is "
        "replaced.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.add_argument(
        "--engine",
        metavar="NAME",
        required=True,
        help="of the bundle's graphs for TensorRT, e.g. trt-bf16",
    )
    parser.add_argument(
        "--builder",
        choices=["tensorrt-rtx", "tensorrt"],
        default="tensorrt-rtx",
        help="(default: tensorrt-rtx)",
    )
    parser.add_argument(
        "--sm",
        metavar="N,N",
        default=DEFAULT_SMS,
        help=f"compute capabilities to build for (default: {DEFAULT_SMS})",
    )
    parser.add_argument(
        "--buckets",
        metavar="B,B",
        default=DEFAULT_BUCKETS,
        help="sizes to tune for: text=TOKENSxSEQUENCESxLENGTH, image=PATCHESxIMAGES "
        f"(default: {DEFAULT_BUCKETS}). A run takes the memory of the smallest bucket it fits, "
        "printed beside it; one that fits none is divided",
    )
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="memory one kernel may take in MiB"
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="also compile the GPU kernels of the heads into BUNDLE/kernels for the same "
        "processors, so that only vectors are copied back; takes the extra `kernels`",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build the engines, report each, and return 0."""
    try:
        from trine.export.trt.build_spec import BuildSpec, parse_buckets, profiles
        from trine.export.trt.bundle_engines import BUILT_FOLDER, BuiltGraph, record_engines
        from trine.export.trt.engine_build import build_engine
        from trine.export.trt.head_kernels import compile_heads
    except ImportError as cause:
        raise missing_package(cause.name or "onnx", "export", "to build engines") from cause
    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.commands.info.bundle_summary import bucket_texts

    bundle = open_bundle(arguments.bundle)
    model = bundle.manifest.model
    entry = next((e for e in bundle.manifest.engines if e.name == arguments.engine), None)
    if entry is None or entry.runner != "tensorrt":
        known = [e.name for e in bundle.manifest.engines if e.runner == "tensorrt"]
        raise BundleError(
            f"{arguments.bundle}: has no graphs for TensorRT called {arguments.engine!r}; it has "
            f"{known}; export the bundle with --target tensorrt"
        )
    folder = bundle.path(entry.vision).parent
    decoder, vision = parse_buckets(arguments.buckets)
    spec = BuildSpec(
        builder="tensorrt" if arguments.builder == "tensorrt" else "tensorrt_rtx",
        sms=_sms(arguments.sm),
        decoder=decoder,
        vision=vision,
        max_rank=bundle.manifest.adapters.max_rank,
        workspace_bytes=None if arguments.workspace is None else arguments.workspace << 20,
    )
    built = []
    for name in dict.fromkeys((entry.vision, *entry.decoders.values())):
        kind: Literal["vision", "decoder"] = "vision" if name == entry.vision else "decoder"
        engine, is_new = build_engine(
            bundle.path(name), kind, spec, model.vision, folder / BUILT_FOLDER
        )
        sizes = profiles(spec, kind, model.vision)
        built.append(BuiltGraph(record=engine, profiles=tuple(sizes)))
        state = f"built in {engine.seconds:.1f} s" if is_new else "was built before"
        print(
            f"  {engine.engine:<44} {format_bytes(engine.engine_bytes):>9}  {state}, "
            f"peak memory of the build {format_bytes(engine.peak_bytes)}, memory of a run beside "
            f"the weights: {bucket_texts(sizes, engine.scratch_bytes)}",
            file=sys.stderr,
        )
    record_engines(bundle, entry, built)
    if arguments.kernels:
        compile_heads(bundle.folder, spec.sms)
    return 0


def _sms(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--sm {text!r} is not a list of compute capabilities such as 86,89,120")
    return tuple(sorted({int(part) for part in parts}))
