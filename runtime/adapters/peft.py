"""LoRA adapters in PEFT's files: read, checked, one task or several in a folder.

`adapter_config.json` holds rank and scaling; `adapter_model.safetensors` holds
`….q_proj.lora_A.<task>.weight` [r, in] and `….lora_B.<task>.weight` [out, r] of several tasks, as
the published checkpoint has it, or the same without `<task>` of a single one. A layer computes
W·x + (alpha / r)·B·(A·x) (LoRA, https://arxiv.org/abs/2106.09685), so merging is
W' = W + (alpha / r)·B·A. With `use_rslora` the root of r takes its place
(https://arxiv.org/abs/2312.03732).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.layout import PROJECTOR, adapted_shapes
from trine.runtime.bundle.dtypes import FLOATS, check_finite
from trine.runtime.bundle.json_file import read_json
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import CheckpointError

__all__ = [
    "CONFIG_NAME",
    "SINGLE_TASK",
    "WEIGHTS_NAME",
    "LoraAdapters",
    "LoraPair",
    "PeftAdapters",
    "conversion",
    "short_name",
    "unwrapped",
]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
#: What torch wrote before safetensors: a pickle, which runs code when it is read carelessly.
PICKLE_NAME = "adapter_model.bin"
#: What torch.compile, DDP, FSDP and checkpointing put into names of the modules they wrap.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
#: Prefixes of a tensor's name in the spellings in use; what is left is its short name.
PREFIX = re.compile(r"^(?:base_model\.model\.)?(?:model\.)?(?:language_model\.)?(?:model\.)?")
#: What PEFT puts into the names of layers it adapts, where a model is saved with its adapters.
WRAPPED = ".base_layer."
TENSOR_NAME = re.compile(
    r"^(?P<module>.+)\.lora_(?P<half>[AB])"
    r"(?:\.default(?=\..+\.weight$))?(?:\.(?P<task>.+))?\.weight$"
)
#: Task of the tensors of a file that names none.
SINGLE_TASK = ""
#: Ranks and alphas end below, far beyond any that makes sense.
LARGEST_NUMBER = 1e6
#: Features that change the arithmetic: key of adapter_config.json, and the values that mean "off".
UNSUPPORTED_FEATURES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("use_dora", (False, None)),
    ("use_rslora", (False, None, True)),
    ("use_qalora", (False, None)),
    ("lora_bias", (False, None)),
    ("bias", ("none", None)),
    ("fan_in_fan_out", (False, None)),
    ("modules_to_save", (None, [])),
    ("layer_replication", (None, [])),
    ("trainable_token_indices", (None, [], {})),
    ("target_parameters", (None, [])),
    ("alora_invocation_tokens", (None, [])),
    ("megatron_config", (None, {})),
    ("arrow_config", (None,)),
    ("kasa_config", (None,)),
    ("monteclora_config", (None,)),
    ("use_bdlora", (None, False)),
    # Other ways of starting a training take a part out of the base model's own weights.
    ("init_lora_weights", (True, False, None, "gaussian", "eva", "orthogonal")),
)


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The delta of one linear layer for one task.

    Attributes:
        a: float32 [r, in].
        b: float32 [out, r], already multiplied by alpha / r.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]

    def delta(self) -> NDArray[np.float32]:
        """Return float32 [out, in], what is added to the layer's weight."""
        return self.b @ self.a


@dataclass(frozen=True, slots=True)
class _LayerNumbers:
    """A number of every layer.

    Attributes:
        general: of layers that no pattern names.
        special: of those one names; the first that matches decides.
    """

    general: float
    special: tuple[tuple[re.Pattern[str], float], ...]

    def of(self, module: str) -> float:
        """Return the number of a layer by its short name."""
        full_name = module if module == PROJECTOR else f"model.language_model.{module}"
        found = (value for pattern, value in self.special if pattern.match(full_name))
        return next(found, self.general)


def short_name(name: str) -> str:
    """Return a tensor's or module's name without what its spelling adds."""
    return PREFIX.sub("", unwrapped(name), count=1).replace(WRAPPED, ".")


def unwrapped(name: str) -> str:
    """Return a tensor's name without what wrappers of training put into it."""
    return WRAPPERS.sub("", name)


def conversion(pickle: Path, target: Path) -> str:
    """Return the command that makes a safetensors file of one of torch's own, running no code."""
    return (
        "python -c 'import sys, torch, safetensors.torch as s; "
        "s.save_file({k: v.clone() for k, v in "
        f"torch.load(sys.argv[1], weights_only=True).items()}}, sys.argv[2])' {pickle} {target}"
    )


class LoraAdapters(Protocol):
    """The adapters of a checkpoint, by task."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files read."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have an adapter."""
        ...

    def modules(self, task: str) -> list[str]:
        """Return the short names of the layers that `task` adapts."""
        ...

    def rank(self, module: str, task: str) -> int:
        """Return the rank of a layer's adapter."""
        ...

    def scaling(self, module: str, task: str) -> float:
        """Return alpha / r of a layer, or alpha / sqrt(r) of rank-stabilised adapters."""
        ...

    def dtype(self, task: str) -> str:
        """Return the widest storage dtype of a task's tensors, e.g. "BF16"."""
        ...

    def pair(self, module: str, task: str) -> LoraPair | None:
        """Return the delta of `module` for `task`, or None where the adapter leaves it alone.

        Raises:
            CheckpointError: a value is not finite.
        """
        ...


class PeftAdapters:
    """The adapters of one PEFT folder.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        config: of the base model, for the shapes.
        tasks: that must be there, and no others, unless the file names none; None to take what is
            there.

    Raises:
        CheckpointError: a file is missing or damaged, a feature, target or rank is not supported,
            or halves, shapes or tasks do not fit; all misfits of the tensors are listed at once.
    """

    def __init__(self, folder: Path, config: ModelConfig, tasks: tuple[str, ...] | None) -> None:
        self._config_path = folder / CONFIG_NAME
        self._settings = read_json(self._config_path, CheckpointError)
        self._check_features()
        self._ranks = self._layer_numbers("r", "rank_pattern", whole=True)
        self._alphas = self._layer_numbers("lora_alpha", "alpha_pattern", whole=False)
        self._file = TensorFile(_weights_path(folder), CheckpointError)
        self._names: dict[tuple[str, str, str], str] = {}
        problems = []
        shapes = adapted_shapes(config)
        for stored_name in self._file.tensors:
            match = TENSOR_NAME.match(short_name(stored_name))
            if match is None:
                problems.append(f"{stored_name} is no lora_A or lora_B weight")
            elif match["module"] not in shapes:
                problems.append(f"{stored_name} adapts a layer that has no adapter in this model")
            elif tasks is not None and match["task"] not in (None, *tasks):
                problems.append(f"{stored_name} is for task {match['task']!r}, not in task_names")
            else:
                task = match["task"] or SINGLE_TASK
                self._names[match["module"], task, match["half"]] = stored_name
        problems += self._misfits(shapes)
        if self.tasks != (SINGLE_TASK,):
            problems += [
                f"task {t!r} has no adapter tensors" for t in tasks or () if t not in self.tasks
            ]
            if SINGLE_TASK in self.tasks:
                problems.append("some tensors name a task and some do not")
        if not self._names:
            problems.append("it holds no adapter tensors")
        if problems:
            shown = "; ".join(problems[:6]) + ("; …" if len(problems) > 6 else "")
            raise CheckpointError(
                f"{self._file.path}: {len(problems)} misfits: {shown}. "
                "Check that the adapter is whole and of this model"
            )

    @property
    def files(self) -> tuple[Path, Path]:
        """The two files read."""
        return self._config_path, self._file.path

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the file; `SINGLE_TASK` alone where it names none."""
        return tuple(dict.fromkeys(task for _, task, _ in self._names))

    def modules(self, task: str) -> list[str]:
        """Return the short names of the layers that `task` adapts."""
        return [module for module, t, half in self._names if t == task and half == "A"]

    def rank(self, module: str, task: str) -> int:
        """Return the rank of a layer's adapter, the same for all tasks of the file."""
        return int(self._ranks.of(module))

    def scaling(self, module: str, task: str) -> float:
        """Return alpha / r of a layer, or alpha / sqrt(r) of rank-stabilised adapters."""
        rank = self.rank(module, task)
        return self._alphas.of(module) / (rank**0.5 if self._settings.get("use_rslora") else rank)

    def dtype(self, task: str) -> str:
        """Return the widest storage dtype of a task's tensors, e.g. "BF16"."""
        found = {self._file.tensors[n].dtype for (_, t, _), n in self._names.items() if t == task}
        return found.pop() if len(found) == 1 else "F32"

    def pair(self, module: str, task: str) -> LoraPair | None:
        """Return the delta of `module` for `task`, or None where the adapter leaves it alone.

        Raises:
            CheckpointError: a value is not finite.
        """
        if (module, task, "A") not in self._names:
            return None
        a, b = (
            check_finite(self._file.float32(name), f"{self._file.path}: {name}", CheckpointError)
            for name in (self._names[module, task, "A"], self._names[module, task, "B"])
        )
        b *= np.float32(self.scaling(module, task))
        return LoraPair(a, b)

    def _check_features(self) -> None:
        kind = self._settings.get("peft_type", "LORA")
        if kind != "LORA":
            raise CheckpointError(f"{self._config_path}: peft_type is {kind!r}; LORA is supported")
        for key, off in UNSUPPORTED_FEATURES:
            value = self._settings.get(key)
            if value not in off:
                raise CheckpointError(
                    f"{self._config_path}: {key} is {value!r}, which is not supported; train or "
                    f"convert the adapter with {key}={off[0]!r}"
                )

    def _layer_numbers(self, key: str, pattern_key: str, whole: bool) -> "_LayerNumbers":
        """Return rank or alpha, checked whether a layer has it or not."""
        patterns = self._settings.get(pattern_key)
        if not isinstance(patterns, dict | None):
            raise CheckpointError(
                f"{self._config_path}: {pattern_key} is {patterns!r}; an object of patterns and "
                "numbers is needed"
            )
        special = []
        for pattern, value in (patterns or {}).items():
            try:
                # PEFT's rule: a key matches the end of the module's full name in the model.
                matcher = re.compile(rf"(.*\.)?({pattern})$")
            except re.error as cause:
                raise CheckpointError(
                    f"{self._config_path}: {pattern_key} has {pattern!r}, which is no regular "
                    f"expression ({cause}); correct it"
                ) from cause
            special.append((matcher, self._number(f"{pattern_key}[{pattern!r}]", value, whole)))
        return _LayerNumbers(self._number(key, self._settings.get(key), whole), tuple(special))

    def _number(self, where: str, value: object, whole: bool) -> float:
        kinds = int if whole else int | float
        if isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < LARGEST_NUMBER:
            return float(value)
        kind = "whole number" if whole else "number"
        raise CheckpointError(
            f"{self._config_path}: {where} is {value!r}; a positive {kind} is needed"
        )

    def _misfits(self, shapes: dict[str, tuple[int, int]]) -> list[str]:
        problems = []
        for (module, task, half), name in self._names.items():
            other = "B" if half == "A" else "A"
            if (module, task, other) not in self._names:
                problems.append(f"{name} has no lora_{other} beside it")
            num_out, num_in = shapes[module]
            rank = self.rank(module, task)
            want = (rank, num_in) if half == "A" else (num_out, rank)
            shape = self._file.tensors[name].shape
            if shape != want:
                problems.append(f"{name} is {list(shape)}, not {list(want)} (rank {rank})")
            if (dtype := self._file.tensors[name].dtype) not in FLOATS:
                problems.append(f"{name} is {dtype}, not one of {FLOATS}")
        return problems


def _weights_path(folder: Path) -> Path:
    path, pickle = folder / WEIGHTS_NAME, folder / PICKLE_NAME
    if not path.exists() and pickle.exists():
        raise CheckpointError(
            f"{pickle}: is a pickle, and only safetensors are read; convert it where torch is: "
            f"{conversion(pickle, path)}"
        )
    return path
