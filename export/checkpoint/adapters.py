"""Finds the adapters of a checkpoint, in the layouts people save them in.

    adapters/adapter_model.safetensors            all tasks in one file: the published layout
    adapters/<task>/adapter_model.safetensors     a folder an adapter: PEFT's own
    adapter_model.safetensors                     the same two, at the root of the checkpoint
    <task>/adapter_model.safetensors
    (nothing)                                     one adapter, merged into the weights

Each file has its adapter_config.json beside it.
"""

from collections.abc import Mapping
from pathlib import Path

from trine.runtime.adapters.peft import (
    CONFIG_NAME,
    SINGLE_TASK,
    LoraAdapters,
    LoraPair,
    PeftAdapters,
)
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.errors import CheckpointError

__all__ = ["CheckpointAdapters", "find_adapters"]


class CheckpointAdapters:
    """Adapters of several files, or none, under the names of their tasks.

    Args:
        sources: by task: the file's adapters and what the file calls this one; None for a task
            whose adapter is merged into the weights.
    """

    def __init__(self, sources: Mapping[str, tuple[PeftAdapters, str] | None]) -> None:
        self._sources = sources

    @property
    def files(self) -> tuple[Path, ...]:
        found = [source[0].files for source in self._sources.values() if source is not None]
        return tuple(dict.fromkeys(path for paths in found for path in paths))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def modules(self, task: str) -> list[str]:
        source = self._sources[task]
        return [] if source is None else source[0].modules(source[1])

    def rank(self, module: str, task: str) -> int:
        return self._source(task)[0].rank(module, task)

    def scaling(self, module: str, task: str) -> float:
        return self._source(task)[0].scaling(module, task)

    def dtype(self, task: str) -> str:
        source = self._sources[task]
        return "F32" if source is None else source[0].dtype(source[1])

    def pair(self, module: str, task: str) -> LoraPair | None:
        source = self._sources[task]
        return None if source is None else source[0].pair(module, source[1])

    def _source(self, task: str) -> tuple[PeftAdapters, str]:
        source = self._sources[task]
        if source is None:
            raise KeyError(f"{task} is merged, so it has no module of that name")
        return source


def find_adapters(
    folder: Path, config: ModelConfig, tasks: tuple[str, ...], named: bool
) -> LoraAdapters:
    """Return the adapters of the checkpoint in `folder`.

    Args:
        folder: of the checkpoint.
        config: of its base model.
        tasks: that are wanted.
        named: whether the user named them, rather than the checkpoint.

    Raises:
        CheckpointError: adapters lie in two layouts at once, one of `tasks` is not there, a file
            is damaged or not supported, or none is there and it is not said which one is merged.
    """
    nested, root = _adapter_folders(folder / "adapters"), _adapter_folders(folder)
    root = [path for path in root if path != folder / "adapters"]
    if nested and root:
        raise CheckpointError(
            f"{folder}: has adapters in {nested[0]} and in {root[0]}; remove those that are not "
            "meant"
        )
    found = nested or root
    if not found:
        return _merged(folder, tasks, named)
    if len(found) == 1 and found[0] in (folder, folder / "adapters"):
        return _one_file(found[0], config, tasks)
    return _by_folder(found, config, tasks)


def _adapter_folders(base: Path) -> list[Path]:
    """Return `base` and the folders in it, those of them that hold an adapter."""
    if not base.is_dir():
        return []
    folders = [base, *sorted(path for path in base.iterdir() if path.is_dir())]
    return [path for path in folders if (path / CONFIG_NAME).is_file()]


def _merged(folder: Path, tasks: tuple[str, ...], named: bool) -> CheckpointAdapters:
    if not named or len(tasks) != 1:
        raise CheckpointError(
            f"{folder / 'adapters' / CONFIG_NAME}: cannot be read, for neither it nor another "
            "adapter is there; the file is needed, unless one task's adapter is merged into the "
            f"weights: then name the task, as in --tasks {tasks[0]}"
        )
    return CheckpointAdapters({tasks[0]: None})


def _one_file(path: Path, config: ModelConfig, tasks: tuple[str, ...]) -> LoraAdapters:
    peft = PeftAdapters(path, config, config.tasks)
    if peft.tasks != (SINGLE_TASK,):
        return peft
    if len(tasks) != 1:
        raise CheckpointError(
            f"{peft.files[1]}: has one adapter and does not say of which task; name it with "
            f"--tasks, as in --tasks {tasks[0]}"
        )
    return CheckpointAdapters({tasks[0]: (peft, SINGLE_TASK)})


def _by_folder(
    folders: list[Path], config: ModelConfig, tasks: tuple[str, ...]
) -> CheckpointAdapters:
    sources: dict[str, tuple[PeftAdapters, str] | None] = {}
    for path in folders:
        peft = PeftAdapters(path, config, None)
        for inner in peft.tasks:
            task = path.name if inner == SINGLE_TASK else inner
            if task in sources:
                raise CheckpointError(
                    f"{peft.files[1]}: task {task!r} has another adapter too; remove one"
                )
            sources[task] = (peft, inner)
    missing = [task for task in tasks if task not in sources]
    if missing:
        raise CheckpointError(
            f"{folders[0].parent}: tasks {missing} have no adapter; it has {sorted(sources)} (a "
            "folder is called as its task); add the folders, rename them, or choose with --tasks"
        )
    return CheckpointAdapters({task: sources[task] for task in tasks})
