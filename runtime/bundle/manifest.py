"""`manifest.json`: what a bundle says of itself, as typed data.

Reading is strict: every field must be there with its type, and a field nobody knows is refused, so
that a bundle and the code that reads it cannot drift apart unnoticed.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePath
from typing import Literal, Union, get_args, get_origin, get_type_hints

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.precision import EnginePrecision, PrecisionMap
from trine.runtime.errors import BundleError

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "UPGRADED_VERSIONS",
    "AdapterLayout",
    "AdapterMode",
    "Builder",
    "BuiltEngine",
    "Device",
    "EngineEntry",
    "FileEntry",
    "Manifest",
    "Runner",
    "SizeRange",
    "Source",
    "Tolerance",
    "manifest_from_json",
    "manifest_to_json",
]

FORMAT = "trine-bundle"
#: Raised with every change that older code would misread.
FORMAT_VERSION = 4
#: Older ones, of which `trine upgrade` makes the present one.
UPGRADED_VERSIONS = (2, 3)

#: "merged": a decoder for each task, with its adapter in the weights; "runtime": one decoder for
#: all, which takes adapters as inputs.
AdapterMode = Literal["merged", "runtime"]
#: Kinds of processors.
Device = Literal["cpu", "cuda"]
#: What builds engines ahead of time, by the names of the Python modules.
Builder = Literal["tensorrt_rtx", "tensorrt"]
#: What runs graphs. Manifests say what kind of graphs they are: "onnxruntime", or "tensorrt" for
#: graphs of standard operators alone, strongly typed. The others are how the runtime names another
#: way to run the same graphs (`trine.runtime.engines.gpu.entries`).
Runner = Literal["onnxruntime", "native", "tensorrt", "tensorrt_rtx", "ort_cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights came from.

    Attributes:
        id: Hub id, "nano", or the name of the folder.
        revision: commit on the Hub; None for a folder.
        sha256: of every file read, by its path in the checkpoint.
    """

    id: str
    revision: str | None
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an engine's golden vectors may be from the reference before it is refused."""

    min_cosine: float
    max_difference: float


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Sizes of one dimension: the least, the one kernels are chosen for, and the largest."""

    least: int
    best: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine that a builder made of one graph, for some processors only.

    Attributes:
        graph: path of the graph in the bundle.
        path: of the engine in the bundle.
        key: SHA-256 of all that shaped it: graph, weights, buckets, builder, version, processors.
        builder, version: that made it; another version does not load it.
        sms: compute capabilities it runs on, e.g. (86, 89).
        profiles: its buckets: the sizes of each symbolic dimension of the graph's inputs.
        layers: of the builder's network.
        scratch_bytes: memory beside the weights in each profile, as the builder states it.
        build_seconds: the build took.
        build_peak_bytes: largest resident memory of the build; 0 where the system does not tell.
    """

    graph: str
    path: str
    key: str
    builder: Builder
    version: str
    sms: tuple[int, ...]
    profiles: tuple[Mapping[str, SizeRange], ...]
    layers: int
    scratch_bytes: tuple[int, ...]
    build_seconds: float
    build_peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One way to run the model.

    Attributes:
        name: unique in the bundle, e.g. "ort-fp32".
        runner: the kind of engine that can run the graphs. Manifests say "onnxruntime"; "native" is
            how the runtime names it when Trine's own kernels do.
        devices: on which that runner has kernels for them.
        precision: asked for; of weights and matrix products.
        precision_map: what every tensor and operation has.
        adapters: how its decoders have them.
        vision: path of the vision graph in the bundle.
        decoders: path of the decoder graph by task; the same for all with "runtime".
        weight_bytes: size of all weights of one decoder plus the vision tower.
        tolerance: for the self-test at load, a little wider than what was measured at export.
        below_floor: whether it is further from float32 than its precision should be, and was kept
            all the same because the export was told to.
        built: engines made of the graphs by `trine build`; none where the runner takes graphs.
    """

    name: str
    runner: Runner
    devices: tuple[Device, ...]
    precision: EnginePrecision
    precision_map: PrecisionMap
    adapters: AdapterMode
    vision: str
    decoders: Mapping[str, str]
    weight_bytes: int
    tolerance: Tolerance
    below_floor: bool
    built: tuple[BuiltEngine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLayout:
    """The adapters, and the form in which a decoder takes them as inputs.

    Attributes:
        max_rank: rank up to which an adapter fits; the largest there was, where they are merged.
        dtype: of the inputs, as safetensors name it.
        files: adapters kept beside a "runtime" decoder, path by task; empty where all are merged.
    """

    max_rank: int
    dtype: Literal["BF16", "F16", "F32"]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All a bundle says of itself.

    Attributes:
        format, format_version: what this is; refused when newer than the code.
        source: of the weights.
        license: of the weights, as the checkpoint's publisher states it, if known.
        model: the model's numbers.
        engines: at least one, the preferred one first.
        adapters: their form, and those kept beside the decoders of "runtime" engines.
        tools: versions of what wrote the bundle, by package name.
        files: every other file, by its path in the bundle with forward slashes.
    """

    format: str
    format_version: int
    source: Source
    license: str | None
    model: ModelConfig
    engines: tuple[EngineEntry, ...]
    adapters: AdapterLayout
    tools: Mapping[str, str]
    files: Mapping[str, FileEntry]


def manifest_to_json(manifest: Manifest) -> str:
    """Return the file's text: keys in the order of declaration, two spaces of indent."""
    return json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False) + "\n"


def manifest_from_json(text: str, where: str) -> Manifest:
    """Return the manifest in the text of a manifest.json.

    Args:
        text: of the file.
        where: its path, for messages.

    Raises:
        BundleError: it is not JSON, of another format, written by newer code, or a field is wrong.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BundleError(f"{where}: not valid JSON ({cause}); export the bundle again") from cause
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{where}: not a {FORMAT}; give the folder that `trine export` wrote")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{where}: has format version {version!r}, this code reads {FORMAT_VERSION}; "
            + _version_remedy(version, where)
        )
    manifest = _decode(Manifest, content, where)
    if not isinstance(manifest, Manifest):
        raise TypeError(manifest)
    return manifest


def _version_remedy(version: object, where: str) -> str:
    if not isinstance(version, int):
        return "export the bundle again"
    if version > FORMAT_VERSION:
        return "upgrade trine"
    if version in UPGRADED_VERSIONS:
        return f"bring it up to date with `trine upgrade {PurePath(where).parent}`"
    return "export the bundle again"


def _decode(kind: object, value: object, where: str) -> object:
    """Return `value` of parsed JSON as the annotated type `kind`."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        # The only unions here are "or None".
        return None if value is None else _decode(arguments[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise BundleError(f"{where}: is {value!r}; this code knows {list(arguments)}")
        return value
    if origin is not None:
        return _decode_collection(origin, arguments, value, where)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if isinstance(value, float) and not isfinite(value):
        raise BundleError(f"{where}: is {value!r}, no finite number; export the bundle again")
    if not isinstance(kind, type) or type(value) is not kind:
        raise BundleError(f"{where}: is {value!r}, not of type {getattr(kind, '__name__', kind)}")
    return value


def _decode_collection(
    origin: object, arguments: tuple[object, ...], value: object, where: str
) -> object:
    """Return a JSON list as a tuple, or a JSON object as a dict."""
    if origin is tuple:
        if not isinstance(value, list):
            raise BundleError(f"{where}: is {value!r}, not a list")
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if not isinstance(value, dict):
        raise BundleError(f"{where}: is {value!r}, not an object")
    return {key: _decode(arguments[1], v, f"{where}.{key}") for key, v in value.items()}


def _decode_dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise BundleError(f"{where}: is {value!r}, not an object")
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    missing, unknown = set(names) - set(value), set(value) - set(names)
    if missing or unknown:
        raise BundleError(
            f"{where}: fields missing {sorted(missing)}, fields unknown {sorted(unknown)}; "
            "export the bundle again with this version"
        )
    return kind(**{name: _decode(hints[name], value[name], f"{where}.{name}") for name in names})
