"""A bundle's entries of TensorRT graphs, and of the engines that were built from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trine.export.bundle.edit import write_manifest
from trine.export.bundle.engine_files import EngineKind, EngineSource, GraphModels, table_number
from trine.export.graphs.layers import decoder_layers, vision_layers
from trine.export.graphs.trt.decoder import build_trt_decoder
from trine.export.graphs.trt.precision import TrtPlan
from trine.export.graphs.trt.vision import build_trt_vision
from trine.export.options import TensorRtPrecision
from trine.export.quantisation.trt.graph_plans import TrtPlans
from trine.export.trt.engine_build import RECORD_SUFFIX, BuildRecord
from trine.kernels.rotation import ROTATION
from trine.runtime.bundle.bundle import Bundle, file_sha256
from trine.runtime.bundle.manifest import BuiltEngine, EngineEntry, FileEntry, SizeRange
from trine.runtime.bundle.precision import (
    ALWAYS_FLOAT32,
    GraphPrecision,
    LinearPrecision,
    PrecisionMap,
    PrecisionOverride,
    linear_role,
)

__all__ = ["BUILT_FOLDER", "BuiltGraph", "record_engines", "trt_kind", "trt_models"]

#: Folder of built engines beside an entry's graphs.
BUILT_FOLDER = "built"
#: What these graphs, and TensorRT's fused attention, need not compute in float32.
NOT_FLOAT32 = ("softmax statistics", "adapter deltas")


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A graph's engine: its record, and the sizes of each of its buckets' dimensions."""

    record: BuildRecord
    profiles: tuple[Mapping[str, SizeRange], ...]


def trt_kind(source: EngineSource, precision: TensorRtPrecision, plans: TrtPlans) -> EngineKind:
    """Return what graphs for TensorRT are called, where they run and in what precision."""
    config = source.checkpoint.config
    return EngineKind(
        name=f"trt-{precision}",
        runner="tensorrt",
        devices=("cuda",),
        precision=precision,
        precision_map=PrecisionMap(
            vision=_precision(plans.vision, vision_layers(config.vision)),
            decoder=_precision(plans.decoder, decoder_layers(config.decoder)),
            embedding=table_number(source.checkpoint),
            float32=tuple(name for name in ALWAYS_FLOAT32 if name not in NOT_FLOAT32),
        ),
    )


def trt_models(source: EngineSource, plans: TrtPlans) -> GraphModels:
    """Return the graphs for TensorRT in the precision of their plans."""
    checkpoint, config = source.checkpoint, source.checkpoint.config
    return GraphModels(
        lambda: build_trt_vision(config.vision, checkpoint, plans.vision),
        lambda weights, layout: build_trt_decoder(config.decoder, weights, plans.decoder, layout),
    )


def record_engines(bundle: Bundle, entry: EngineEntry, built: Sequence[BuiltGraph]) -> EngineEntry:
    """Write built engines into the bundle's manifest, at once or not at all; return the new entry.

    An engine takes the place of one that was built from the same graph by the same builder for one
    of its processors; that one's files are removed.

    Args:
        bundle: whose folder has the engines, as `build_engine` wrote them.
        entry: of their graphs.
        built: the engines.
    """
    made = tuple(_described(entry, graph) for graph in built)
    replaced = {old.path for old in entry.built for new in made if _replaces(new, old)}
    kept = tuple(old for old in entry.built if old.path not in replaced)
    new_entry = dataclasses.replace(entry, built=kept + made)
    engines = tuple(new_entry if e.name == entry.name else e for e in bundle.manifest.engines)
    gone = {name for path in replaced for name in _files(path)} - {
        name for engine in new_entry.built for name in _files(engine.path)
    }
    files = {name: file for name, file in bundle.manifest.files.items() if name not in gone}
    for engine in made:
        for name in _files(engine.path):
            path = bundle.path(name)
            files[name] = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
    manifest = dataclasses.replace(
        bundle.manifest, engines=engines, files=dict(sorted(files.items()))
    )
    write_manifest(bundle.folder, manifest)
    for name in gone:
        bundle.path(name).unlink(missing_ok=True)
    return new_entry


def _described(entry: EngineEntry, built: BuiltGraph) -> BuiltEngine:
    record, folder = built.record, entry.vision.rpartition("/")[0]
    return BuiltEngine(
        graph=f"{folder}/{record.graph}",
        path=f"{folder}/{BUILT_FOLDER}/{record.engine}",
        key=record.key,
        builder=record.builder,
        version=record.version,
        sms=record.sms,
        profiles=built.profiles,
        layers=record.layers,
        scratch_bytes=record.scratch_bytes,
        build_seconds=record.seconds,
        build_peak_bytes=record.peak_bytes,
    )


def _replaces(new: BuiltEngine, old: BuiltEngine) -> bool:
    same = (new.graph, new.builder) == (old.graph, old.builder)
    return same and bool(set(new.sms) & set(old.sms))


def _files(engine_path: str) -> tuple[str, str]:
    return engine_path, engine_path.removesuffix(".engine") + RECORD_SUFFIX


def _precision(plan: TrtPlan, layers: Sequence[str]) -> GraphPrecision:
    """Return a plan as the manifest has it: a rule for each role, and the layers apart from it."""
    found = {linear_role(name): _narrow(plan, name) for name in layers if plan.is_quantised(name)}
    left_out = (
        PrecisionOverride(
            name=name,
            precision=plan.precision.of(name),
            reason=_why_wider(found[linear_role(name)]),
        )
        for name in layers
        if linear_role(name) in found and not plan.is_quantised(name)
    )
    wider = {tensor.name: tensor for tensor in (*left_out, *plan.precision.wider)}
    return dataclasses.replace(
        plan.precision,
        linears={
            role: found.get(role, plan.precision.linears[role])
            for role in dict.fromkeys(linear_role(name) for name in layers)
        },
        wider=tuple(wider.values()),
    )


def _narrow(plan: TrtPlan, name: str) -> LinearPrecision:
    """Return the precision of a layer with fewer than 16 bits."""
    weight_only = plan.weight_only.get(name)
    if weight_only is not None:
        return LinearPrecision(weight="int4", activation=plan.half, block=weight_only.block)
    quantisation = plan.quantised[name]
    kind = quantisation.kind
    return LinearPrecision(
        weight=kind,
        activation=kind,
        accumulate="int32" if kind == "int8" else "fp32",
        rotation=ROTATION if quantisation.rotated else None,
    )


def _why_wider(narrow: LinearPrecision) -> str:
    if narrow.weight == "int4":
        return "4-bit weights lose too much, or its inputs are no multiple of a block"
    return f"its inputs do not fit one fixed {narrow.weight} scale"
