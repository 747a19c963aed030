"""The LoRA adapters of a checkpoint: read from the PEFT files, checked, ready to merge.

One file holds all tasks: `….q_proj.lora_A.<task>.weight` float [r, in] and
`….q_proj.lora_B.<task>.weight` float [out, r]. The layer computes W·x + (alpha / r)·B·(A·x)
(LoRA, https://arxiv.org/abs/2106.09685), so merging is W' = W + (alpha / r)·B·A.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.export.checkpoint import PREFIX, check_finite
from trine.export.checkpoint_config import read_json
from trine.runtime.errors import CheckpointError
from trine.runtime.model_config import ModelConfig
from trine.runtime.tensor_file import TensorFile

__all__ = ["PROJECTOR", "Adapters", "LoraPair", "adapted_shapes"]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PROJECTOR = "multi_vector_projector"
TENSOR_NAME = re.compile(
    r"^(?P<module>.+)\.lora_(?P<half>[AB])\.(?:default\.)?(?P<task>.+)\.weight$"
)
#: Features that change the arithmetic: key of adapter_config.json, and the values that mean "off".
UNSUPPORTED_FEATURES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("use_dora", (False, None)),
    ("use_rslora", (False, None)),
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


def adapted_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear layer an adapter may change, by short module name."""
    decoder = config.decoder
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    kv = decoder.num_kv_heads * decoder.head_dim
    shapes = {}
    for layer in range(decoder.num_layers):
        for name, num_out in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            shapes[f"layers.{layer}.self_attn.{name}_proj"] = (num_out, hidden)
        for name in ("gate", "up"):
            shapes[f"layers.{layer}.mlp.{name}_proj"] = (inner, hidden)
        shapes[f"layers.{layer}.mlp.down_proj"] = (hidden, inner)
    shapes[PROJECTOR] = (config.projector_dim, hidden)
    return shapes


class Adapters:
    """All tasks' adapters of one PEFT folder.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        config: of the base model, for the shapes and the task names.

    Raises:
        CheckpointError: a file is missing or damaged, a feature, target or rank is not supported,
            or halves, shapes or tasks do not fit; all misfits of the tensors are listed at once.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._config_path = folder / CONFIG_NAME
        self._settings = read_json(self._config_path)
        self._check_features()
        self._file = TensorFile(folder / WEIGHTS_NAME, CheckpointError)
        self._names: dict[tuple[str, str, str], str] = {}
        problems = []
        shapes = adapted_shapes(config)
        for stored_name in self._file.tensors:
            match = TENSOR_NAME.match(PREFIX.sub("", stored_name, count=1))
            if match is None:
                problems.append(f"{stored_name} is no lora_A or lora_B weight")
            elif match["module"] not in shapes:
                problems.append(f"{stored_name} adapts a layer that has no adapter in this model")
            elif match["task"] not in config.tasks:
                problems.append(f"{stored_name} is for task {match['task']!r}, not in task_names")
            else:
                self._names[match["module"], match["task"], match["half"]] = stored_name
        problems += self._misfits(shapes, config.tasks)
        if problems:
            shown = "; ".join(problems[:6]) + ("; …" if len(problems) > 6 else "")
            raise CheckpointError(f"{self._file.path}: {len(problems)} misfits: {shown}")

    @property
    def files(self) -> tuple[Path, Path]:
        """The two files read."""
        return self._config_path, self._file.path

    def pair(self, module: str, task: str) -> LoraPair | None:
        """Return the delta of `module` for `task`, or None where the adapter leaves it alone."""
        if (module, task, "A") not in self._names:
            return None
        a, b = (
            check_finite(self._file.float32(name), f"{self._file.path}: {name}")
            for name in (self._names[module, task, "A"], self._names[module, task, "B"])
        )
        b *= np.float32(self._alpha(module) / self._rank(module))
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

    def _rank(self, module: str) -> int:
        return int(self._pattern_number("rank_pattern", "r", module))

    def _alpha(self, module: str) -> float:
        return self._pattern_number("alpha_pattern", "lora_alpha", module)

    def _pattern_number(self, pattern_key: str, key: str, module: str) -> float:
        """Return a module's own number, else the general one.

        PEFT's rule: a key matches the end of the module's full name in the model.
        """
        value = self._settings.get(key)
        patterns = self._settings.get(pattern_key) or {}
        full_name = module if module == PROJECTOR else f"model.language_model.{module}"
        if isinstance(patterns, dict):
            for pattern, special in patterns.items():
                if re.match(rf"(.*\.)?({pattern})$", full_name):
                    value = special
                    break
        if not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(
                f"{self._config_path}: {key} is {value!r} for {module}; a positive number is needed"
            )
        return float(value)

    def _misfits(self, shapes: dict[str, tuple[int, int]], tasks: tuple[str, ...]) -> list[str]:
        problems = []
        for (module, task, half), name in self._names.items():
            if (module, task, "B" if half == "A" else "A") not in self._names:
                problems.append(f"{name} has no lora_{'B' if half == 'A' else 'A'} beside it")
            num_out, num_in = shapes[module]
            rank = self._rank(module)
            want = (rank, num_in) if half == "A" else (num_out, rank)
            shape = self._file.tensors[name].shape
            if shape != want:
                problems.append(f"{name} is {list(shape)}, not {list(want)} (rank {rank})")
        seen = {task for _, task, _ in self._names}
        problems += [f"task {task!r} has no adapter tensors" for task in tasks if task not in seen]
        return problems
