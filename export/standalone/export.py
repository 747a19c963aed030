"""Exports plain ONNX models: checkpoint in, a folder a task out, measured before it is kept."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TextIO

import onnx_ir as ir

from trine.export.accuracy.thresholds import ThresholdCheck
from trine.export.bundle.adapter_files import choose_layout
from trine.export.bundle.engine_files import EngineSource
from trine.export.bundle.runtime_files import write_tokenizer
from trine.export.bundle.writer import check_destination, check_disk_space
from trine.export.checkpoint.adapters import find_adapters
from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.source import read_license, resolve_source
from trine.export.export import (
    SMALL_FILES_BYTES,
    check_options,
    chosen_tasks,
    export_notes,
    peak_bytes,
    reference_of_export,
)
from trine.export.graphs.builder import save_graph
from trine.export.graphs.standalone.text_model import TextModelSource, build_text_model
from trine.export.graphs.trt.precision import uniform_plan
from trine.export.graphs.trt.vision import build_trt_vision
from trine.export.options import ExportOptions
from trine.export.quantisation.engine_making import CHECKED_WEIGHT_BYTES, EngineMaker
from trine.export.quantisation.planning import TIGHTNESS, Planning
from trine.export.quantisation.precision_plan import EnginePlan
from trine.export.standalone.files import write_model_files
from trine.export.standalone.measure import ModelDistance, measure_model
from trine.runtime.bundle.atomic import write_folder
from trine.runtime.bundle.precision import Precision
from trine.runtime.commands.progress import ProgressBar, format_bytes
from trine.runtime.errors import BundleError, InputError
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["OnnxModel", "OnnxReport", "export_onnx"]

#: What tells a folder of ours from others'.
RECORD_NAME = "export.json"
FORMAT = "trine-onnx"
#: Names of variants, as models on the Hub have them.
MODEL_NAMES: Mapping[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
}
VISION_NAME = "vision/onnx/vision_model.onnx"
DATA_SUFFIX = ".onnx_data"
#: Dtype of the embedding table; 16 bits of a table cost no more than rounding a token once.
TABLES: Mapping[Precision, ir.DataType] = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "int8": ir.DataType.FLOAT16,
}
WEIGHT_BYTES: Mapping[Precision, float] = {"fp32": 4.0, "fp16": 2.0, "int8": 1.05}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """One model that was written.

    Attributes:
        path: inside the folder, with forward slashes.
        num_bytes: with its weights.
        distance: from float32; None if it was not run.
    """

    path: str
    num_bytes: int
    distance: ModelDistance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxReport:
    """What an export did: where, from what, the models, and how long and how much it took."""

    folder: Path
    source_id: str
    models: tuple[OnnxModel, ...]
    seconds: float
    peak_bytes: int | None
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what `trine export` prints."""
        found = [f"{self.folder}: {self.source_id}"]
        for model in self.models:
            line = f"  {model.path:<44} {format_bytes(model.num_bytes):>9}"
            if model.distance is not None:
                line += f"  worst cosine with float32 {model.distance.worst_cosine:.6f}"
            found.append(line)
        found += [f"  note: {note}" for note in self.notes]
        peak = "" if self.peak_bytes is None else f", peak memory {format_bytes(self.peak_bytes)}"
        return [*found, f"  {self.seconds:.1f} s{peak}"]


def export_onnx(options: ExportOptions, talk: TextIO) -> OnnxReport:
    """Write the models that `options` ask for; `options.bundle` is their folder.

    Args:
        options: what to export; of precisions there are fp32, fp16 and int8, adapters are merged.
        talk: where progress is drawn, if it is a terminal.

    Raises:
        CheckpointError: the source is missing, damaged or not supported.
        BundleError: the destination is in the way, the disk is full, or a model is too far from
            float32.
        InputError: an option has no meaning for this layout.
        DependencyError: a package is missing.
    """
    started = time.monotonic()
    _check_layout(options)
    check_options(options)
    check_destination(options.bundle, options.force, RECORD_NAME, FORMAT)
    source = resolve_source(options.source, options.revision)
    checkpoint = Checkpoint(source.folder)
    tasks = chosen_tasks(options, checkpoint)
    adapters = find_adapters(source.folder, checkpoint.config, tasks, options.tasks is not None)
    engine_source = EngineSource(
        checkpoint=checkpoint,
        adapters=adapters,
        tasks=tasks,
        adapter_mode="merged",
        layout=choose_layout(adapters, tasks, "merged", None),
    )
    need = sum(_model_bytes(checkpoint, p) * len(tasks) for p in options.precisions)
    check_disk_space(options.bundle, need + _vision_bytes(checkpoint) + SMALL_FILES_BYTES)
    with write_folder(options.bundle, BundleError) as folder:
        for task in tasks:
            (folder / task / "onnx").mkdir(parents=True)
            tokenizer = write_tokenizer(checkpoint, folder / task)
            write_model_files(checkpoint, tokenizer, task, folder / task)
        reference = reference_of_export(options, engine_source, tokenizer, talk)
        planning = Planning(
            source=engine_source,
            reference=reference,
            allow_below_threshold=options.allow_below_threshold,
            min_cosine=options.min_cosine,
        )
        writer = _ModelWriter(planning, tokenizer, folder, options.check, talk)
        models = [model for p in options.precisions for model in writer.write(p)]
        models.append(_write_vision(checkpoint, folder, talk))
        record = {
            "format": FORMAT,
            "source": source.id,
            "revision": source.revision,
            "license": read_license(source.folder),
            "models": [dataclasses.asdict(model) for model in models],
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD_NAME).write_text(text, encoding="utf-8")
    return OnnxReport(
        folder=options.bundle,
        source_id=source.id,
        models=tuple(models),
        seconds=time.monotonic() - started,
        peak_bytes=peak_bytes(),
        notes=export_notes(adapters, tasks),
    )


def _check_layout(options: ExportOptions) -> None:
    unknown = [p for p in options.precisions if p not in MODEL_NAMES]
    if unknown or options.tensorrt:
        raise InputError(
            f"--precision {(*unknown, *options.tensorrt)[0]} is not written as plain ONNX; choose "
            f"one of {', '.join(MODEL_NAMES)}, or leave out --layout onnx"
        )
    if options.adapters == "runtime" or options.max_rank is not None or options.onnx_adapters:
        raise InputError(
            "--layout onnx merges each task's adapter into a model of its own; leave out "
            "--adapters runtime, --max-rank and --onnx-adapters"
        )


class _ModelWriter:
    """Writes the models of all tasks in one precision, again until they keep their threshold."""

    def __init__(
        self,
        planning: Planning,
        tokenizer: TextTokenizer,
        folder: Path,
        check: bool | None,
        talk: TextIO,
    ) -> None:
        self._planning = planning
        self._tokenizer = tokenizer
        self._folder = folder
        self._check = check
        self._talk = talk

    def write(self, precision: Precision) -> list[OnnxModel]:
        maker = EngineMaker(self._planning, check=self._check)
        for tightness in TIGHTNESS:
            layers = ProgressBar(self._talk, f"planning {precision}", 0, "layers")
            plan = maker.plan(precision, tightness, layers.advance).plan
            layers.finish()
            models = [self._write_task(task, precision, plan) for task in self._source.tasks]
            problems = self._problems(precision, models)
            if not problems or precision == "fp32":
                break
        if problems and not (self._planning.allow_below_threshold and precision != "fp32"):
            raise BundleError(
                f"nothing was written, for {MODEL_NAMES[precision]} is further from float32 than "
                f"it may be ({'; '.join(problems)}); give inputs like yours with --calibration, "
                "choose another --precision, or keep it with --allow-below-threshold"
            )
        return models

    @property
    def _source(self) -> EngineSource:
        return self._planning.source

    def _write_task(self, task: str, precision: Precision, plan: EnginePlan) -> OnnxModel:
        source = TextModelSource(self._source.checkpoint, self._source.adapters, task)
        name = f"{task}/onnx/{MODEL_NAMES[precision]}"
        path = self._folder / name
        total = _model_bytes(self._source.checkpoint, precision)
        bar = ProgressBar(self._talk, f"writing {name}", total, "B")
        model = build_text_model(source, plan.decoder, TABLES[precision])
        save_graph(model, path, bar.advance, DATA_SUFFIX)
        bar.finish()
        size = path.stat().st_size + path.with_suffix(DATA_SUFFIX).stat().st_size
        # Narrow models must be known; float32 ones are the reference's own arithmetic.
        usual = precision != "fp32" or size <= CHECKED_WEIGHT_BYTES
        distance = None
        if usual if self._check is None else self._check:
            golden = self._planning.reference.golden
            distance = measure_model(path, golden, task, self._tokenizer)
        return OnnxModel(path=name, num_bytes=size, distance=distance)

    def _problems(self, precision: Precision, models: Sequence[OnnxModel]) -> tuple[str, ...]:
        found = [model.distance for model in models if model.distance is not None]
        threshold = self._planning.threshold(precision)
        return ThresholdCheck.of(
            threshold, [d.mean_cosine for d in found], [d.worst_cosine for d in found]
        ).problems


def _write_vision(checkpoint: Checkpoint, folder: Path, talk: TextIO) -> OnnxModel:
    path = folder / VISION_NAME
    path.parent.mkdir(parents=True)
    bar = ProgressBar(talk, f"writing {VISION_NAME}", _vision_bytes(checkpoint), "B")
    config, plan = checkpoint.config.vision, uniform_plan("fp32")
    model = build_trt_vision(config, checkpoint, plan, whole_mask=True)
    save_graph(model, path, bar.advance, DATA_SUFFIX)
    bar.finish()
    size = path.stat().st_size + path.with_suffix(DATA_SUFFIX).stat().st_size
    return OnnxModel(path=VISION_NAME, num_bytes=size, distance=None)


def _model_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Return about how many bytes a text model takes."""
    shapes = checkpoint.shapes().items()
    layers = sum(prod(shape) for name, shape in shapes if name.startswith(("layers.", "norm.")))
    table = prod(checkpoint.info(EMBEDDING_TENSOR).shape) * TABLES[precision].itemsize
    return int(layers * WEIGHT_BYTES[precision] + table)


def _vision_bytes(checkpoint: Checkpoint) -> int:
    shapes = checkpoint.shapes().items()
    return 4 * sum(prod(shape) for name, shape in shapes if name.startswith("visual."))
