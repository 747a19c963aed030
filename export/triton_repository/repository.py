"""Writes the repository's folders, whole or not at all.

<repository>/embed/config.pbtxt, 1/model.py, 1/bundle/…       items to vectors
<repository>/vision/config.pbtxt, 1/vision.onnx, .data        the vision tower
<repository>/decoder-<task>/config.pbtxt, 1/decoder-….onnx    one decoder a task
"""

import os
import shutil
from pathlib import Path

from trine.export.triton_repository.model_config import ServedModel, config_text
from trine.export.triton_repository.models import (
    EMBED,
    MODEL_FILE,
    ServingChoices,
    embed_model,
    graph_models,
)
from trine.runtime.bundle.atomic import write_folder
from trine.runtime.bundle.bundle import MANIFEST_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.errors import BundleError, InputError

__all__ = ["VERSION", "write_repository"]

#: Of the models; Triton serves the highest number.
VERSION = "1"
#: The bundle's folder beside the Python backend's model file.
BUNDLE_FOLDER = "bundle"
MODEL_SOURCE = '''"""Where Triton's Python backend enters; the work is in the package `trine`."""

from trine.export.triton_repository.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    bundle: Bundle,
    entry: EngineEntry,
    folder: Path,
    choices: ServingChoices,
    *,
    copy: bool = False,
    force: bool = False,
) -> tuple[ServedModel, ...]:
    """Write a repository for one engine and return its models.

    Args:
        bundle: to serve.
        entry: of its engine.
        folder: to write.
        choices: where the graphs run and how requests are joined.
        copy: copy the bundle's files in place of hard links to them.
        force: replace a repository that is there.

    Raises:
        InputError: the engine or the default task does not fit the choices.
        BundleError: something else is at `folder`, or files cannot be linked or written.
    """
    if choices.graphs == "models" and entry.adapters != "merged":
        raise InputError(
            f"engine {entry.name} takes its adapters as inputs of the decoder, which Triton's "
            "clients do not have; use --graphs embedded, or export with --adapters merged"
        )
    if choices.default_task is not None and choices.default_task not in entry.decoders:
        raise InputError(
            f"--task is {choices.default_task!r}; the bundle has {list(entry.decoders)}"
        )
    _check_destination(folder, force)
    embed = embed_model(entry, bundle.manifest.model, choices)
    graphs = graph_models(bundle, entry, choices) if choices.graphs == "models" else {}
    with write_folder(folder, BundleError) as partial:
        place = _write_model(partial, embed)
        (place / MODEL_FILE).write_text(MODEL_SOURCE, encoding="utf-8")
        for name in (MANIFEST_NAME, *bundle.manifest.files):
            _place(bundle.path(name), place / BUNDLE_FOLDER / name, copy)
        for path, model in graphs.items():
            place = _write_model(partial, model)
            beside = path.removesuffix(".onnx") + ".data"
            for name in (path, beside):
                if name in bundle.manifest.files:
                    _place(bundle.path(name), place / Path(name).name, copy)
    return (embed, *graphs.values())


def _check_destination(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / EMBED / "config.pbtxt").is_file():
        raise BundleError(
            f"{folder}: exists and is no model repository of this program; give another path"
        )
    if not force:
        raise BundleError(f"{folder}: a model repository is there; use --force to replace it")


def _write_model(repository: Path, model: ServedModel) -> Path:
    """Write a model's config.pbtxt; return the folder of its version."""
    place = repository / model.name / VERSION
    place.mkdir(parents=True)
    (place.parent / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
    return place


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as cause:
        raise BundleError(
            f"{target}: cannot be a hard link to {source} ({cause.strerror}); use --copy, or a "
            "folder on the same disk"
        ) from cause
