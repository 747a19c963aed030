"""The export, step by step: checkpoint in, bundle out."""

import dataclasses
import importlib.metadata
import resource
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from trine.export.adapter_files import choose_layout, write_adapters, write_onnx_adapters
from trine.export.bundle_writer import check_destination, check_disk_space, write_atomically
from trine.export.checkpoint import Checkpoint
from trine.export.engine_files import engine_bytes, write_fp32_engine
from trine.export.golden_inputs import make_golden
from trine.export.options import EngineReport, ExportOptions, ExportReport
from trine.export.parity import measure_engine, write_parity
from trine.export.reference import Reference
from trine.export.runtime_files import write_embedding, write_heads, write_tokenizer
from trine.export.source import ResolvedSource, read_license, resolve_source
from trine.runtime.bundle import GOLDEN_NAME, MANIFEST_NAME, Bundle, file_sha256
from trine.runtime.embedding_table import EMBEDDING_TENSOR
from trine.runtime.errors import InputError
from trine.runtime.golden import Golden
from trine.runtime.manifest import (
    FORMAT,
    FORMAT_VERSION,
    AdapterLayout,
    EngineEntry,
    FileEntry,
    Manifest,
    Source,
    manifest_to_json,
)
from trine.runtime.peft_adapter import PeftAdapters
from trine.runtime.progress import ProgressBar

__all__ = ["CHECKED_WEIGHT_BYTES", "export_checkpoint"]

#: Engines up to this size are run on the golden inputs before the bundle is kept.
CHECKED_WEIGHT_BYTES = 2 << 30
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
        InputError: a task is not in the checkpoint.
        DependencyError: a package is missing.
    """
    started = time.monotonic()
    check_destination(options.bundle, options.force)
    source = resolve_source(options.source, options.revision)
    checkpoint = Checkpoint(source.folder)
    adapters = PeftAdapters(source.folder / "adapters", checkpoint.config, checkpoint.config.tasks)
    tasks = _chosen_tasks(options, checkpoint)
    layout = choose_layout(adapters, tasks, options.max_rank)
    if options.adapters == "merged":
        layout = dataclasses.replace(layout, files={})
    size = engine_bytes(checkpoint, 1 if layout.files else len(tasks))
    check_disk_space(
        options.bundle, size + checkpoint.info(EMBEDDING_TENSOR).num_bytes + SMALL_FILES_BYTES
    )
    with write_atomically(options.bundle) as folder:
        tokenizer = write_tokenizer(checkpoint, folder)
        bar = ProgressBar(talk, "writing", size + checkpoint.info(EMBEDDING_TENSOR).num_bytes, "B")
        write_embedding(checkpoint, folder, bar.advance)
        write_heads(checkpoint, adapters, tasks, folder)
        if layout.files:
            write_adapters(adapters, layout, folder)
        if layout.files and options.onnx_adapters:
            write_onnx_adapters(adapters, layout, checkpoint.config, folder)
        entry = write_fp32_engine(checkpoint, adapters, tasks, layout, folder, bar.advance)
        bar.finish()
        config = checkpoint.config
        bar = ProgressBar(
            talk, "reference", config.vision.depth + config.decoder.num_layers, "layers"
        )
        reference = Reference(checkpoint, adapters)
        _write_golden(
            folder / GOLDEN_NAME, make_golden(config, tokenizer, reference, tasks, bar.advance)
        )
        bar.finish()
        manifest = _manifest(source, checkpoint, adapters, entry, layout)
        check = entry.weight_bytes <= CHECKED_WEIGHT_BYTES
        report = EngineReport(
            name=entry.name,
            graphs=tuple((name, _graph_bytes(folder / name)) for name in _graphs(entry)),
            deviations=measure_engine(Bundle(folder, manifest), entry)
            if (check if options.check is None else options.check)
            else None,
        )
        write_parity(folder, [report])
        num_bytes = _write_manifest(manifest, folder, talk)
    return ExportReport(
        bundle=options.bundle,
        source_id=source.id,
        tasks=tasks,
        engines=(report,),
        num_bytes=num_bytes,
        seconds=time.monotonic() - started,
        peak_bytes=_peak_bytes(),
    )


def _chosen_tasks(options: ExportOptions, checkpoint: Checkpoint) -> tuple[str, ...]:
    known = checkpoint.config.tasks
    if options.tasks is None:
        return known
    unknown = [task for task in options.tasks if task not in known]
    if unknown or not options.tasks:
        raise InputError(f"tasks {unknown} are not in the checkpoint; it has {list(known)}")
    return tuple(task for task in known if task in options.tasks)


def _write_golden(path: Path, golden: Golden) -> None:
    # savez stores members with a fixed date, so the same vectors give the same file.
    np.savez(
        path,
        allow_pickle=False,
        texts=np.array(golden.texts),
        image=golden.image,
        **golden.vectors,
    )


def _manifest(
    source: ResolvedSource,
    checkpoint: Checkpoint,
    adapters: PeftAdapters,
    entry: EngineEntry,
    layout: AdapterLayout,
) -> Manifest:
    """Return the manifest, yet without the list of files."""
    read = [
        *(checkpoint.folder / name for name in ("config.json", "preprocessor_config.json")),
        checkpoint.folder / "tokenizer.json",
        *(shard.path for shard in checkpoint.shards),
        *adapters.files,
    ]
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        source=Source(
            id=source.id,
            revision=source.revision,
            sha256={
                path.relative_to(checkpoint.folder).as_posix(): file_sha256(path) for path in read
            },
        ),
        license=read_license(checkpoint.folder),
        model=checkpoint.config,
        engines=(entry,),
        adapters=layout,
        tools={name: importlib.metadata.version(name) for name in TOOLS},
        files={},
    )


def _graphs(entry: EngineEntry) -> list[str]:
    return [entry.vision, *dict.fromkeys(entry.decoders.values())]


def _graph_bytes(path: Path) -> int:
    return path.stat().st_size + path.with_suffix(".data").stat().st_size


def _write_manifest(manifest: Manifest, folder: Path, talk: TextIO) -> int:
    """Write manifest.json with every file's size and hash; return the bundle's size in bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    bar = ProgressBar(talk, "hashing", sum(path.stat().st_size for path in paths), "B")
    files = {}
    for path in paths:
        entry = FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
        files[path.relative_to(folder).as_posix()] = entry
        bar.advance(entry.size)
    bar.finish()
    text = manifest_to_json(dataclasses.replace(manifest, files=files))
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return sum(entry.size for entry in files.values()) + len(text.encode())


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
