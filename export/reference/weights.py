"""Finds the tensors of a checkpoint for the PyTorch reference.

Apart from the exporter's own reading of the checkpoint on purpose: a name or a scale that one of
them gets wrong then shows as a difference of vectors.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.peft import unwrapped
from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import CheckpointError

__all__ = ["PROJECTOR", "LowRank", "Stored", "adapter_changes", "base_weights", "json_object"]

PROJECTOR = "multi_vector_projector"
#: Prefix in the file → prefix in transformers' `Qwen2_5_VLModel`; the first that fits counts.
#: Published files say `model.layers…` and `visual…`; files saved again by newer transformers say
#: `model.language_model…` and `model.visual…`.
PREFIXES = {
    "model.language_model.": "language_model.",
    "model.visual.": "visual.",
    "model.": "language_model.",
    "language_model.": "language_model.",
    "visual.": "visual.",
    f"{PROJECTOR}.": f"{PROJECTOR}.",
}
#: The language-model head (tied to the embeddings, not used for vectors) and rotary tables, which
#: old saves contain and which follow from the config.
UNUSED = re.compile(r"lm_head\.|.*\.inv_freq$")
ADAPTER_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.(?:default\.)?(?P<task>.+)\.weight"
)
#: adapter_config.json settings that change the arithmetic, with the values that leave it plain.
PLAIN_LORA: dict[str, tuple[object, ...]] = {
    "use_dora": (None, False),
    "use_rslora": (None, False, True),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor of the checkpoint: the file and the name it has there."""

    file: TensorFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.tensors[self.name].shape

    def float32(self) -> NDArray[np.float32]:
        """Return the values as float32, C-order, owned by the caller."""
        return self.file.float32(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What one task adds to one weight: scale · up @ down.

    Attributes:
        down: LoRA's A, [rank, inputs].
        up: LoRA's B, [outputs, rank].
        scale: alpha / rank, or alpha / sqrt(rank) of rank-stabilised adapters.
    """

    down: Stored
    up: Stored
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]


def json_object(path: Path) -> dict[str, object]:
    """Return the JSON object in the file `path`.

    Raises:
        CheckpointError: the file is missing or holds no JSON object.
    """
    return read_json(path, CheckpointError)


def base_weights(checkpoint: Path) -> dict[str, Stored]:
    """Return every tensor of the model by its name in `Qwen2_5_VLModel`, plus the projector's.

    All safetensors files of the folder are read, whatever an index lists: published indexes have
    left files out.

    Raises:
        CheckpointError: no file is there, one is damaged, or a tensor is unknown or there twice.
    """
    paths = sorted(checkpoint.glob("[!.]*.safetensors"))
    if not paths:
        raise CheckpointError(f"{checkpoint}: no *.safetensors file; give a checkpoint's folder")
    weights: dict[str, Stored] = {}
    for path in paths:
        file = TensorFile(path, CheckpointError)
        for name in file.tensors:
            if UNUSED.match(unwrapped(name)):
                continue
            local = _local_name(name)
            if local is None:
                raise CheckpointError(f"{path}: tensor {name!r} is not one of this model's")
            if local in weights:
                raise CheckpointError(
                    f"{path}: tensor {name!r} is also in {weights[local].file.path.name}; "
                    "remove one of the two files"
                )
            weights[local] = Stored(file=file, name=name)
    return weights


def adapter_changes(folder: Path) -> dict[str, dict[str, LowRank]]:
    """Return what each task changes, {task: {module in `Qwen2_5_VLModel`: change}}.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`, one file for all tasks.

    Raises:
        CheckpointError: a file is missing or damaged, the adapters are of another kind than plain
            LoRA, or ranks and tensors do not fit together.
    """
    config = json_object(folder / "adapter_config.json")
    for setting, plain in PLAIN_LORA.items():
        if config.get(setting) not in plain:
            raise CheckpointError(
                f"{folder}: {setting} = {config[setting]!r} is not supported; "
                "only plain LoRA adapters are"
            )
    file = TensorFile(folder / "adapter_model.safetensors", CheckpointError)
    sides: defaultdict[tuple[str, str], dict[str, Stored]] = defaultdict(dict)
    for name in file.tensors:
        match = ADAPTER_KEY.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{file.path}: tensor {name!r} is no LoRA matrix of a task")
        sides[match["task"], match["module"]][match["side"]] = Stored(file=file, name=name)
    changes: defaultdict[str, dict[str, LowRank]] = defaultdict(dict)
    for (task, module), pair in sides.items():
        local = _local_name(f"{module}.")
        if local is None or pair.keys() != {"A", "B"}:
            raise CheckpointError(
                f"{file.path}: task {task!r} changes {module!r} by {sorted(pair)}; "
                "both A and B are needed, of a module of this model"
            )
        local = local.removesuffix(".")
        changes[task][local] = _low_rank(local, pair["A"], pair["B"], config)
    return dict(changes)


def _local_name(name: str) -> str | None:
    # Saved from within PEFT, names begin so and adapted layers are wrapped.
    name = unwrapped(name).removeprefix("base_model.model.").replace(".base_layer.", ".")
    for prefix, local in PREFIXES.items():
        if name.startswith(prefix):
            return local + name.removeprefix(prefix)
    return None


def _low_rank(module: str, down: Stored, up: Stored, config: dict[str, object]) -> LowRank:
    rank = _setting(config, "rank_pattern", "r", module)
    alpha = _setting(config, "alpha_pattern", "lora_alpha", module)
    if down.shape[0] != rank or up.shape[1] != rank:
        raise CheckpointError(
            f"{down.file.path}: {module} has matrices of shape {down.shape} and {up.shape}, but "
            f"adapter_config.json gives it rank {rank}"
        )
    divisor = rank**0.5 if config.get("use_rslora") else rank
    return LowRank(down=down, up=up, scale=alpha / divisor)


def _setting(config: dict[str, object], pattern: str, default: str, module: str) -> float:
    """Return a module's rank or alpha by PEFT's rule: the first pattern that ends its full name.

    The full name is the one in the published model: `model.language_model.layers…`.
    """
    full_name = module if module == PROJECTOR else f"model.{module}"
    patterns = config.get(pattern) or {}
    keys: Iterable[str] = patterns if isinstance(patterns, dict) else ()
    key = next((k for k in keys if re.match(rf"(.*\.)?({k})$", full_name)), None)
    value = config.get(default) if key is None else patterns[key]  # type: ignore[index]
    if not isinstance(value, int | float) or value <= 0:
        raise CheckpointError(
            f"adapter_config.json: {module} has {default} = {value!r}; a positive number is needed"
        )
    return value
