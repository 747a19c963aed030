"""Builds TensorRT engines from graphs, each once: engines are kept by what they were made of."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from trine.export.trt.build_spec import BuildSpec, profiles
from trine.export.trt.lint import lint_file
from trine.runtime.bundle.atomic import scratch_folder
from trine.runtime.bundle.bundle import file_sha256
from trine.runtime.bundle.manifest import Builder, SizeRange
from trine.runtime.bundle.model_config import VisionConfig
from trine.runtime.engines.gpu.tensorrt import import_builder
from trine.runtime.errors import EngineError, missing_package

__all__ = ["RECORD_SUFFIX", "BuildRecord", "build_engine", "engine_key"]

#: Extras and distributions by builder. TensorRT's own libraries come from NVIDIA's index.
EXTRAS = {"tensorrt_rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}
#: Hexadecimal digits of an engine's key that are in its file name.
KEY_DIGITS = 16
RECORD_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """An engine's record, kept beside it as JSON.

    Attributes:
        graph: name of the graph's file.
        key: SHA-256 of all that shaped the engine.
        builder, version: that made it; another version does not load it.
        sms: compute capabilities it runs on.
        engine: name of its file.
        layers: of the network.
        engine_bytes: size of the file.
        scratch_bytes: memory beside the weights in each profile, as the builder states it.
        seconds: the build took.
        peak_bytes: largest resident memory of the build; 0 where the system does not tell.
    """

    graph: str
    key: str
    builder: Builder
    version: str
    sms: tuple[int, ...]
    engine: str
    layers: int
    engine_bytes: int
    scratch_bytes: tuple[int, ...]
    seconds: float
    peak_bytes: int


def engine_key(graph: Path, spec: BuildSpec, version: str) -> str:
    """Return the SHA-256 of a graph with its weights, a spec and a builder's version."""
    digest = hashlib.sha256()
    data = graph.with_suffix(".data")
    for path in (graph, data):
        digest.update(file_sha256(path).encode() if path.exists() else b"-")
    digest.update(f"{spec.to_json()}\n{version}".encode())
    return digest.hexdigest()


def build_engine(
    graph: Path,
    kind: Literal["decoder", "vision"],
    spec: BuildSpec,
    vision: VisionConfig,
    folder: Path,
) -> tuple[BuildRecord, bool]:
    """Return the engine of a graph, and whether it had to be built.

    Args:
        graph: an .onnx file of this package's dialect.
        kind: which buckets are its own.
        spec: of the build.
        vision: for the sizes of windows.
        folder: of engines and their records; an engine that is there is kept.

    Raises:
        EngineError: the lint or the builder refuses the graph, or the builder crashed.
        DependencyError: the builder is not installed.
    """
    version = _builder_version(spec)
    key = engine_key(graph, spec, version)
    name = f"{graph.stem}-{key[:KEY_DIGITS]}"
    record, engine = folder / f"{name}{RECORD_SUFFIX}", folder / f"{name}.engine"
    if record.exists() and engine.exists():
        return _read_record(record), False
    found = [finding for finding in lint_file(graph, spec.sms) if finding.kind == "error"]
    if found:
        raise EngineError(
            f"{graph}: TensorRT cannot run it: {found[0]} ({len(found)} findings in all)"
        )
    shapes = [_input_shapes(graph, sizes) for sizes in profiles(spec, kind, vision)]
    if not shapes:
        raise EngineError(f"{graph}: there is no bucket for a {kind}; give one with --buckets")
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(engine.with_suffix(".building"), EngineError) as scratch:
        made = scratch / "engine"
        report = _run_worker(graph, spec, shapes, made)
        built = BuildRecord(
            graph=graph.name,
            key=key,
            builder=spec.builder,
            version=version,
            sms=spec.sms,
            engine=engine.name,
            layers=int(report["layers"]),
            engine_bytes=int(report["engine_bytes"]),
            scratch_bytes=tuple(report["scratch_bytes"]),
            seconds=round(float(report["seconds"]), 2),
            peak_bytes=int(report["peak_bytes"]),
        )
        os.replace(made, engine)
    # The record comes last: an engine without one was not finished.
    record.write_text(json.dumps(dataclasses.asdict(built), indent=2) + "\n", encoding="utf-8")
    return built, True


def _builder_version(spec: BuildSpec) -> str:
    if importlib.util.find_spec(spec.builder) is None:
        raise missing_package(spec.builder, EXTRAS[spec.builder], "to build engines")
    # As the runtime asks: several packages bring the module `tensorrt`.
    return str(import_builder(spec.builder).__version__)


def _read_record(path: Path) -> BuildRecord:
    content = json.loads(path.read_text(encoding="utf-8"))
    tuples = {name: tuple(content[name]) for name in ("sms", "scratch_bytes")}
    return BuildRecord(**content | tuples)


def _input_shapes(
    graph: Path, sizes: Mapping[str, SizeRange]
) -> dict[str, tuple[list[int], list[int], list[int]]]:
    """Return the least, best and largest shape of each input."""
    shapes = {}
    for value in onnx.load(graph, load_external_data=False).graph.input:
        ranges = []
        for dim in value.type.tensor_type.shape.dim:
            fixed = SizeRange(dim.dim_value, dim.dim_value, dim.dim_value)
            if dim.dim_param and dim.dim_param not in sizes:
                raise EngineError(
                    f"{graph}: input {value.name} has a dimension {dim.dim_param!r} that no "
                    "bucket gives a size; write the graph again with this version"
                )
            ranges.append(sizes[dim.dim_param] if dim.dim_param else fixed)
        shapes[value.name] = (
            [r.least for r in ranges],
            [r.best for r in ranges],
            [r.most for r in ranges],
        )
    return shapes


def _run_worker(
    graph: Path, spec: BuildSpec, shapes: Sequence[Mapping[str, object]], engine: Path
) -> Mapping[str, Any]:
    """Return the report of a build in a process of its own."""
    request = engine.with_name("request.json")
    asked = {
        "builder": spec.builder,
        "graph": str(graph),
        "engine": str(engine),
        "sms": spec.sms,
        "workspace_bytes": spec.workspace_bytes,
        "profiles": shapes,
    }
    request.write_text(json.dumps(asked), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "trine.export.trt.build_worker", str(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EngineError(f"{graph}: {_end_of(done.returncode, spec, done.stderr)}")
    report = json.loads(request.with_name("report.json").read_text(encoding="utf-8"))
    if not report["built"]:
        step = "build" if report["parsed"] else "read"
        messages = " | ".join(report["messages"]) or "no message"
        raise EngineError(f"{graph}: {spec.builder} cannot {step} it: {messages}")
    return dict(report)


def _end_of(code: int, spec: BuildSpec, stderr: str) -> str:
    last = stderr.strip().splitlines()[-1:] or ["no message"]
    if code < 0:
        return (
            f"{spec.builder} crashed ({signal.Signals(-code).name}, {last[0]}); if it was killed, "
            "free memory or build fewer buckets at once"
        )
    return f"{spec.builder} ended with {code}: {last[0]}"
