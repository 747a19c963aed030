"""The export, step by step: checkpoint in, bundle out."""

import importlib.metadata
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from trine.export.accuracy.parity import write_parity
from trine.export.bundle.adapter_files import choose_layout, write_adapters, write_onnx_adapters
from trine.export.bundle.engine_files import DEVICES, EngineSource, engine_bytes
from trine.export.bundle.runtime_files import (
    write_embedding,
    write_heads,
    write_module_files,
    write_tokenizer,
)
from trine.export.bundle.writer import check_destination, check_disk_space
from trine.export.calibration.inputs import built_in_calibration
from trine.export.calibration.run import affordable_size
from trine.export.calibration.user_files import read_calibration
from trine.export.checkpoint.adapters import find_adapters
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.config import image_settings_path
from trine.export.checkpoint.source import ResolvedSource, read_license, resolve_source
from trine.export.options import (
    EngineReport,
    ExportOptions,
    ExportReport,
    MadeEngine,
    TensorRtPrecision,
)
from trine.export.quantisation.engine_making import EngineMaker
from trine.export.quantisation.planning import TIGHTNESS, Planning
from trine.export.quantisation.trt.graph_making import plan_graphs, write_graphs
from trine.export.reference.forward import ReferencePass, run_reference
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.bundle.atomic import write_folder
from trine.runtime.bundle.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    MODULE_FILES,
    TOKENIZER_NAME,
    Bundle,
    file_sha256,
    open_bundle,
)
from trine.runtime.bundle.golden import Golden, load_golden
from trine.runtime.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    EngineEntry,
    FileEntry,
    Manifest,
    Source,
    manifest_to_json,
)
from trine.runtime.bundle.npz_file import write_arrays
from trine.runtime.bundle.precision import Precision
from trine.runtime.commands.progress import ProgressBar
from trine.runtime.errors import BundleError, InputError
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.scoring.quantisation import (
    RANGES_NAME,
    Int8Ranges,
    bundle_ranges,
    calibrate_ranges,
    write_ranges,
)

__all__ = [
    "SMALL_FILES_BYTES",
    "check_options",
    "chosen_tasks",
    "export_checkpoint",
    "export_notes",
    "peak_bytes",
    "reference_of_export",
]

#: Packages whose versions shape the files.
TOOLS = ("trine", "onnx-ir", "numpy", "onnxruntime")
#: Room for what is small: graphs, tokenizer, golden vectors.
SMALL_FILES_BYTES = 64 << 20


def export_checkpoint(options: ExportOptions, talk: TextIO) -> ExportReport:
    """Write the bundle that `options` ask for.

    Args:
        options: what to export, and where to.
        talk: where progress is drawn, if it is a terminal.

    Raises:
        CheckpointError: the source is missing, damaged or not supported.
        BundleError: the destination is in the way, the disk is full, or the engine is off.
        InputError: a task is not in the checkpoint, or an option cannot be kept to or has no use.
        DependencyError: a package is missing.
    """
    started = time.monotonic()
    check_destination(options.bundle, options.force)
    check_options(options)
    source = resolve_source(options.source, options.revision)
    checkpoint = Checkpoint(source.folder)
    tasks = chosen_tasks(options, checkpoint)
    named = options.tasks is not None
    adapters = find_adapters(source.folder, checkpoint.config, tasks, named)
    layout = choose_layout(adapters, tasks, options.adapters, options.max_rank)
    engine_source = EngineSource(
        checkpoint=checkpoint,
        adapters=adapters,
        tasks=tasks,
        adapter_mode=options.adapters,
        layout=layout,
    )
    size = sum(engine_bytes(engine_source, precision) for precision in options.precisions)
    check_disk_space(
        options.bundle, size + checkpoint.info(EMBEDDING_TENSOR).num_bytes + SMALL_FILES_BYTES
    )
    with write_folder(options.bundle, BundleError) as folder:
        tokenizer = write_tokenizer(checkpoint, folder)
        write_module_files(folder)
        origin = _origin(source, checkpoint, adapters)
        reference = reference_of_export(options, engine_source, tokenizer, talk)
        _write_golden(folder / GOLDEN_NAME, reference.golden)
        write_ranges(folder / RANGES_NAME, _output_ranges(reference, checkpoint, tasks))
        bar = ProgressBar(talk, "copying", checkpoint.info(EMBEDDING_TENSOR).num_bytes, "B")
        write_embedding(checkpoint, folder, bar.advance)
        bar.finish()
        write_heads(checkpoint, adapters, tasks, folder)
        if options.adapters == "runtime":
            write_adapters(adapters, layout, folder)
        if options.onnx_adapters:
            write_onnx_adapters(adapters, layout, checkpoint.config, folder)
        planning = Planning(
            source=engine_source,
            reference=reference,
            allow_below_threshold=options.allow_below_threshold,
            min_cosine=options.min_cosine,
        )
        maker = EngineMaker(planning, check=options.check)
        # Engines are run before the bundle's manifest, which lists them, can be made.
        unfinished = Bundle(folder, _manifest(origin, engine_source, (), {}))
        made = [_make_engine(maker, p, unfinished, talk) for p in options.precisions]
        entries = tuple(engine.entry for engine in made if engine.entry is not None)
        reports = [engine.report for engine in made]
        if not entries:
            raise BundleError(_below_floor(reports))
        write_parity(folder, [report for report in reports if report.written])
        for kind in options.tensorrt:
            graphs = _make_tensorrt(kind, planning, tokenizer, folder, talk)
            reports.append(graphs.report)
            entries += () if graphs.entry is None else (graphs.entry,)
        num_bytes = _write_manifest(folder, origin, engine_source, entries, talk)
        _check_opens(folder)
    return ExportReport(
        bundle=options.bundle,
        source_id=source.id,
        tasks=tasks,
        engines=tuple(reports),
        num_bytes=num_bytes,
        seconds=time.monotonic() - started,
        peak_bytes=peak_bytes(),
        notes=export_notes(adapters, tasks),
    )


def export_notes(adapters: LoraAdapters, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was taken for granted and should be looked at."""
    if adapters.files:
        return ()
    return (
        f"no adapter lies beside the weights: they were taken to have that of {tasks[0]!r} merged; "
        "if they have not, download adapters/ and export again",
    )


def check_options(options: ExportOptions) -> None:
    """Refuse what cannot be kept to, and what would change nothing.

    Raises:
        InputError: an option is such.
    """
    if options.min_cosine is not None and not 0 < options.min_cosine < 1:
        raise InputError(
            f"a least mean cosine of {options.min_cosine:g} cannot be kept to; give a number "
            "between 0 and 1, such as 0.995"
        )
    only_float32 = not options.tensorrt and set(options.precisions) == {"fp32"}
    if only_float32 and (options.calibration is not None or options.min_cosine is not None):
        name = "--min-cosine" if options.calibration is None else "--calibration"
        raise InputError(
            f"{name} is of no use to float32 engines; leave it out, or add a --precision"
        )
    if options.adapters == "merged" and (options.max_rank is not None or options.onnx_adapters):
        name = "--onnx-adapters" if options.max_rank is None else "--max-rank"
        raise InputError(
            f"{name} is for adapters beside the decoder; leave it out, or add --adapters runtime"
        )


def reference_of_export(
    options: ExportOptions, source: EngineSource, tokenizer: TextTokenizer, talk: TextIO
) -> ReferencePass:
    """Return what the export learns from the float32 reference, as far as its engines need it."""
    config = source.checkpoint.config
    narrow = [precision for precision in options.precisions if precision != "fp32"]
    size = affordable_size(config)
    calibration = None
    if options.tensorrt or narrow:
        calibration = (
            built_in_calibration(size)
            if options.calibration is None
            else read_calibration(options.calibration)
        )
    checked = options.check is not False and any("cpu" in DEVICES[p] for p in narrow)
    bar = ProgressBar(talk, "reference", config.vision.depth + config.decoder.num_layers, "layers")
    found = run_reference(source, tokenizer, calibration, size if checked else None, bar.advance)
    bar.finish()
    return found


def _make_engine(
    maker: EngineMaker, precision: Precision, bundle: Bundle, talk: TextIO
) -> MadeEngine:
    """Return an engine that is within its accuracy threshold, or the last that was tried."""
    for tightness in TIGHTNESS:
        layers = ProgressBar(talk, f"planning {precision}", 0, "layers")
        refined = maker.plan(precision, tightness, layers.advance)
        layers.finish()
        last = tightness == TIGHTNESS[-1] or precision == "fp32"
        bar = ProgressBar(talk, f"writing {precision}", maker.engine_bytes(precision), "B")
        made = maker.make(precision, refined, bundle, bar.advance, keep_below_threshold=last)
        bar.finish()
        if made.entry is not None or last:
            break
    return made


def _make_tensorrt(
    kind: TensorRtPrecision,
    planning: Planning,
    tokenizer: TextTokenizer,
    folder: Path,
    talk: TextIO,
) -> MadeEngine:
    """Return what became of graphs for TensorRT, which are written if they keep their threshold."""
    layers = ProgressBar(talk, f"planning trt-{kind}", 0, "layers")
    planned = plan_graphs(planning, kind, tokenizer, layers.advance)
    layers.finish()
    return write_graphs(planning, kind, planned, folder)


def _output_ranges(
    reference: ReferencePass,
    checkpoint: Checkpoint,
    tasks: tuple[str, ...],
) -> Int8Ranges:
    """Return the ranges of int8 output vectors, from all float32 vectors at hand."""
    vectors = {}
    for task in tasks:
        rows = [
            vector[None]
            for key, vector in reference.golden.vectors.items()
            # image/<task>/single and text/<number>/<task>/<prompt>/single
            if key.endswith("/single") and key.split("/")[1 + key.startswith("text/")] == task
        ]
        if reference.calibration is not None:
            rows.append(reference.calibration.singles_of(task))
        vectors[task] = np.concatenate(rows)
    return calibrate_ranges(vectors, checkpoint.config.matryoshka_dims)


def _below_floor(reports: Sequence[EngineReport]) -> str:
    reasons = "; ".join(f"{report.name}: {', '.join(report.below_floor)}" for report in reports)
    return (
        "nothing was written, for every engine is further from float32 than it may be "
        f"({reasons}); give inputs like yours with --calibration, choose a wider --precision, say "
        "what is enough with --min-cosine, or keep it with --allow-below-threshold"
    )


def chosen_tasks(options: ExportOptions, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the tasks to export, in the checkpoint's order."""
    known = checkpoint.config.tasks
    if options.tasks is None:
        return known
    unknown = [task for task in options.tasks if task not in known]
    if unknown or not options.tasks:
        raise InputError(f"tasks {unknown} are not in the checkpoint; it has {list(known)}")
    return tuple(task for task in known if task in options.tasks)


def _write_golden(path: Path, golden: Golden) -> None:
    texts, image = np.array(golden.texts), golden.image
    write_arrays(path, {"texts": texts, "image": image, **golden.vectors})


def _origin(source: ResolvedSource, checkpoint: Checkpoint, adapters: LoraAdapters) -> Source:
    """Return where the weights come from, with the hash of every file that is read."""
    read = [
        checkpoint.folder / "config.json",
        image_settings_path(checkpoint.folder),
        checkpoint.folder / "tokenizer.json",
        *(shard.path for shard in checkpoint.shards),
        *adapters.files,
    ]
    return Source(
        id=source.id,
        revision=source.revision,
        sha256={path.relative_to(checkpoint.folder).as_posix(): file_sha256(path) for path in read},
    )


def _manifest(
    origin: Source,
    source: EngineSource,
    engines: tuple[EngineEntry, ...],
    files: Mapping[str, FileEntry],
) -> Manifest:
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        source=origin,
        license=read_license(source.checkpoint.folder),
        model=source.checkpoint.config,
        engines=engines,
        adapters=source.layout,
        tools={name: importlib.metadata.version(name) for name in TOOLS},
        files=files,
    )


def _write_manifest(
    folder: Path,
    origin: Source,
    source: EngineSource,
    engines: tuple[EngineEntry, ...],
    talk: TextIO,
) -> int:
    """Write manifest.json with every file's size and hash; return the bundle's size in bytes."""
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in MODULE_FILES
    )
    bar = ProgressBar(talk, "hashing", sum(path.stat().st_size for path in paths), "B")
    files = {}
    for path in paths:
        entry = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
        files[path.relative_to(folder).as_posix()] = entry
        bar.advance(entry.size)
    bar.finish()
    text = manifest_to_json(_manifest(origin, source, engines, files))
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_opens(folder: Path) -> None:
    """Read what the runtime reads besides an engine: what nobody can open is not done.

    Raises:
        BundleError: a file does not read as it was written.
    """
    bundle = open_bundle(folder)
    load_golden(bundle.path(GOLDEN_NAME))
    bundle_ranges(bundle)
    TextTokenizer(bundle.path(TOKENIZER_NAME))


def peak_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where nothing says it."""
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
