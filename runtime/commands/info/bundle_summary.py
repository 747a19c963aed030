"""Describes a bundle for people: sizes, memory, parameters, measured parity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trine.kernels.cpu.library import describe_kernels, why_unavailable
from trine.runtime.adapters.costs import adapter_costs
from trine.runtime.bundle.bundle import MANIFEST_NAME, MODULE_FILES, PARITY_NAME, Bundle
from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.manifest import EngineEntry, SizeRange
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.info.precision_text import precision_lines
from trine.runtime.commands.progress import format_bytes
from trine.runtime.engines.native.entries import why_not_native
from trine.runtime.errors import BundleError

__all__ = [
    "ParameterCounts",
    "bucket_texts",
    "bundle_lines",
    "count_parameters",
    "graph_bytes",
    "read_parity",
    "table_lines",
    "total_bytes",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Numbers of weights, computed from the model's numbers; adapters are not counted."""

    embedding: int
    decoder: int
    vision: int
    projector: int

    @property
    def total(self) -> int:
        return self.embedding + self.decoder + self.vision + self.projector


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Return how many weights a model of these numbers has."""
    decoder, vision = model.decoder, model.vision
    hidden = decoder.hidden_size
    queries = decoder.num_heads * decoder.head_dim
    keys = decoder.num_kv_heads * decoder.head_dim
    layer = (
        # query, key and value have a bias each, the output has none
        (hidden + 1) * (queries + 2 * keys)
        + queries * hidden
        + 3 * hidden * decoder.intermediate_size
        + 2 * hidden
    )
    side, middle = vision.hidden_size, vision.intermediate_size
    block = 4 * side * side + 4 * side + 3 * side * middle + 2 * middle + side + 2 * side
    merged = side * vision.spatial_merge_size**2
    merger = side + merged * (merged + 1) + (merged + 1) * vision.out_hidden_size
    return ParameterCounts(
        embedding=decoder.vocab_size * hidden,
        decoder=decoder.num_layers * layer + hidden,
        vision=vision.patch_features * side + vision.depth * block + merger,
        projector=(hidden + 1) * model.projector_dim,
    )


def read_parity(bundle: Bundle) -> dict[str, Any]:
    """Return the content of parity.json.

    Raises:
        BundleError: it is damaged.
    """
    return read_json(bundle.path(PARITY_NAME), BundleError)


def graph_bytes(bundle: Bundle, graph: str) -> int:
    """Return the size of a graph with the weights that lie beside it, in bytes."""
    files = bundle.manifest.files
    beside = graph.removesuffix(".onnx") + ".data"
    return sum(files[name].size for name in (graph, beside) if name in files)


def total_bytes(bundle: Bundle) -> int:
    """Return the size of the whole bundle in bytes."""
    beside = (bundle.path(name) for name in (MANIFEST_NAME, *MODULE_FILES))
    unlisted = sum(path.stat().st_size for path in beside if path.is_file())
    return unlisted + sum(entry.size for entry in bundle.manifest.files.values())


def bundle_lines(bundle: Bundle) -> Iterator[str]:
    """Yield the lines of the table that `trine info` prints."""
    manifest = bundle.manifest
    source = manifest.source
    revision = "" if source.revision is None else f", revision {source.revision}"
    yield f"{bundle.folder}"
    yield from _fields(
        {
            "source": f"{source.id}{revision}",
            "licence of the weights": manifest.license or "not stated by the checkpoint",
            "format": f"{manifest.format} {manifest.format_version}",
            "written with": ", ".join(f"{name} {v}" for name, v in manifest.tools.items()),
        }
    )
    yield ""
    yield "model"
    yield from _fields(_model_fields(manifest.model))
    parity = read_parity(bundle)
    for entry in manifest.engines:
        yield ""
        yield from _engine_lines(bundle, entry, parity.get(entry.name))
    if any(why_not_native(entry) is None for entry in manifest.engines):
        yield ""
        yield f"native kernels of this processor: {why_unavailable() or describe_kernels()}"
    yield ""
    yield "other files"
    graphs = {file for entry in manifest.engines for file in _engine_files(entry)}
    rest = {name: f.size for name, f in manifest.files.items() if name not in graphs}
    yield from _fields({name: format_bytes(size) for name, size in rest.items()})
    yield ""
    yield f"total {format_bytes(total_bytes(bundle))} in {len(manifest.files) + 1} files"


def table_lines(rows: list[tuple[str, ...]], indent: str = "  ") -> Iterator[str]:
    """Yield aligned lines of equally many cells; the first row is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield indent + "  ".join(cells).rstrip()


def _model_fields(model: ModelConfig) -> dict[str, str]:
    counts = count_parameters(model)
    decoder, vision, image = model.decoder, model.vision, model.image
    parts = (
        ("decoder", counts.decoder),
        ("token embeddings", counts.embedding),
        ("vision tower", counts.vision),
        ("projector", counts.projector),
    )
    return {
        "parameters": f"{_count(counts.total)} without adapters: "
        + ", ".join(f"{name} {_count(count)}" for name, count in parts),
        "decoder": f"{decoder.num_layers} layers, hidden {decoder.hidden_size}, {decoder.num_heads}"
        f" heads, {decoder.num_kv_heads} key-value heads of {decoder.head_dim}",
        "vision tower": f"{vision.depth} blocks, hidden {vision.hidden_size}, "
        f"{vision.num_heads} heads, patches of {vision.patch_size} pixels",
        "single vectors": f"{decoder.hidden_size} dimensions, can be cut to "
        + ", ".join(str(dim) for dim in model.matryoshka_dims),
        "multi-vectors": f"{model.projector_dim} dimensions",
        "texts": f"up to {model.max_tokens} tokens, vocabulary of {decoder.vocab_size}",
        "images": f"resized to {image.min_pixels}–{image.max_pixels} pixels, "
        f"{(vision.patch_size * vision.spatial_merge_size) ** 2} a token",
    }


def _engine_lines(bundle: Bundle, entry: EngineEntry, parity: Any) -> Iterator[str]:
    yield f"engine {entry.name}: {entry.runner}, {entry.precision}, {entry.adapters} adapters"
    graphs = (entry.vision, *entry.decoders.values())
    sizes = {graph: graph_bytes(bundle, graph) for graph in graphs}
    if entry.below_floor:
        yield "  BELOW ITS FLOOR: further from float32 than this precision should be"
    yield from _fields({graph: format_bytes(size) for graph, size in sizes.items()})
    yield from precision_lines(entry.precision_map, fixed_scales=entry.runner == "tensorrt")
    yield from _built_lines(bundle, entry)
    adapters = _adapter_sizes(bundle, entry)
    one = entry.weight_bytes + max(adapters, default=0)
    yield from _fields(
        {
            "tasks": ", ".join(entry.decoders),
            "memory with one task": f"about {format_bytes(one)}",
            "memory with all tasks": f"about {format_bytes(sum(sizes.values()) + sum(adapters))}",
        }
    )
    yield "  adapters, decoders with them:"
    rows: list[tuple[str, ...]] = [("mode", "on disk", "in memory")]
    for cost in adapter_costs(bundle.manifest, entry, graph_bytes(bundle, graphs[1])):
        mode = f"{cost.mode} (this)" if cost.mode == entry.adapters else cost.mode
        rows.append((mode, format_bytes(cost.disk_bytes), format_bytes(cost.memory_bytes)))
    yield from table_lines(rows, "    ")
    if isinstance(parity, dict) and parity.get("imitated"):
        imitated = parity["imitated"]
        yield (
            f"  fake-quantised in float32 at export, {imitated['inputs']} inputs: mean cosine "
            f"{imitated['mean_cosine']:.5f}, worst {imitated['worst_cosine']:.5f}"
        )
    if not isinstance(parity, dict) or not parity.get("measured"):
        yield "  parity: not measured at export; `trine verify` measures it"
        return
    yield f"  parity with {parity['reference']}:"
    rows = [("task", "input", "head", "worst cosine", "largest difference")]
    for key, found in parity["vectors"].items():
        task, modality, head = key.rsplit("/", 2)
        rows.append(
            (
                task,
                modality,
                head,
                f"{found['min_cosine']:.7f}",
                f"{found['max_difference']:.1e}",
            )
        )
    yield from table_lines(rows, "    ")
    yield from _corpus_lines(parity)


def _built_lines(bundle: Bundle, entry: EngineEntry) -> Iterator[str]:
    """Yield the engines that were built of an entry's graphs, for which GPUs and sizes."""
    if entry.runner != "tensorrt":
        return
    if not entry.built:
        yield f"  engines: none built yet; `trine build {bundle.folder} --engine {entry.name}`"
        return
    yield "  engines:"
    heading = ("built of", "by", "for", "on disk", "buckets, each with its scratch memory")
    rows = [
        (
            built.graph.rpartition("/")[2],
            f"{built.builder} {built.version}",
            ", ".join(f"sm_{sm}" for sm in built.sms),
            format_bytes(bundle.manifest.files[built.path].size),
            bucket_texts(built.profiles, built.scratch_bytes),
        )
        for built in entry.built
    ]
    yield from table_lines([heading, *rows], "    ")


def bucket_texts(profiles: Sequence[Mapping[str, SizeRange]], scratch: Sequence[int]) -> str:
    """Return buckets with the bytes of memory that a run of each takes beside the weights."""
    return ", ".join(
        f"{_bucket_text(profile)} {format_bytes(size)}"
        for profile, size in zip(profiles, scratch, strict=True)
    )


def _bucket_text(profile: Mapping[str, SizeRange]) -> str:
    """Return a bucket as `trine build --buckets` takes it."""
    if "tokens" in profile:
        sizes = (profile[name].most for name in ("tokens", "sequences", "length"))
        return f"text={'x'.join(map(str, sizes))}"
    return f"image={profile['patches'].most}x{profile['images'].most}"


def _corpus_lines(parity: Any) -> Iterator[str]:
    """Yield how an engine's vectors and rankings of the built-in corpus agree with float32's."""
    if not parity.get("corpus"):
        return
    yield "  built-in corpus against float32:"
    rows: list[tuple[str, ...]] = [("task", "input", "head", "mean", "p1", "worst", "nDCG@10")]
    for vectors, ranking in zip(parity["corpus"], parity["rankings"], strict=True):
        cosines = (f"{vectors[name]:.5f}" for name in ("mean", "p1", "worst"))
        names = (vectors[name] for name in ("task", "modality", "head"))
        rows.append((*names, *cosines, f"{ranking['ndcg_at_10']:.4f}"))
    yield from table_lines(rows, "    ")


def _adapter_sizes(bundle: Bundle, entry: EngineEntry) -> list[int]:
    """Return the bytes of each adapter that the engine keeps beside its decoder."""
    layout = bundle.manifest.adapters
    if entry.adapters != "runtime":
        return []
    return [bundle.manifest.files[name].size for name in layout.files.values()]


def _engine_files(entry: EngineEntry) -> Iterator[str]:
    for graph in (entry.vision, *entry.decoders.values()):
        yield graph
        yield graph.removesuffix(".onnx") + ".data"
    for built in entry.built:
        yield built.path


def _fields(fields: Mapping[str, str]) -> Iterator[str]:
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        yield f"  {name:<{width}}  {value}"


def _count(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
