"""Adapters that this project does not compute, or that do not fit, are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Refuse = Callable[..., str]
Tensors = dict[str, NDArray[Any]]

LAYERS = "base_model.model.model.language_model.layers"
Q_PROJ = f"{LAYERS}.0.self_attn.q_proj"


@pytest.fixture
def change(checkpoint: Path) -> Callable[[Callable[[Tensors], object]], None]:
    """Changes the adapters' tensors in place."""

    def apply(damage: Callable[[Tensors], object]) -> None:
        path = checkpoint / "adapters" / "adapter_model.safetensors"
        tensors = load_file(path)
        damage(tensors)
        save_file(tensors, path)

    return apply


@pytest.fixture
def configure(checkpoint: Path) -> Callable[..., None]:
    """Changes keys of adapter_config.json; `KeyError` as a value removes the key."""

    def apply(**changes: object) -> None:
        path = checkpoint / "adapters" / "adapter_config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not KeyError}))

    return apply


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_rslora", "yes"),
        ("use_qalora", True),
        ("lora_bias", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("target_parameters", ["mlp.experts"]),
        ("trainable_token_indices", [1, 2]),
    ],
)
def test_feature_that_is_not_supported(
    refuse: Refuse, checkpoint: Path, configure: Callable[..., None], key: str, value: object
) -> None:
    configure(**{key: value})
    refuse(
        checkpoint,
        "adapters/adapter_config.json",
        f"{key} is {value!r}, which is not supported",
        f"train or convert the adapter with {key}=",
    )


def test_other_kind_of_adapter(
    refuse: Refuse, checkpoint: Path, configure: Callable[..., None]
) -> None:
    configure(peft_type="LOHA")
    refuse(checkpoint, "adapter_config.json", "peft_type is 'LOHA'", "LORA is supported")


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [0, -4, "4", None, KeyError, True, float("nan"), float("inf")])
def test_unusable_rank_or_alpha(
    refuse: Refuse, checkpoint: Path, configure: Callable[..., None], key: str, value: object
) -> None:
    configure(**{key: value})
    shown = "None" if value is KeyError else repr(value)
    kind = "whole number" if key == "r" else "number"
    refuse(checkpoint, "adapter_config.json", f"{key} is {shown}", f"positive {kind} is needed")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("r", 4.5, "r is 4.5; a positive whole number is needed"),
        ("r", 10**30, "r is 1000000000000000000000000000000; a positive whole number"),
        ("lora_alpha", 1e30, "lora_alpha is 1e+30; a positive number is needed"),
        ("rank_pattern", 8, "rank_pattern is 8; an object of patterns and numbers is needed"),
        ("alpha_pattern", ["q_proj"], "alpha_pattern is ['q_proj']; an object"),
        ("rank_pattern", {"none": "8"}, "rank_pattern['none'] is '8'; a positive whole number"),
        ("alpha_pattern", {"q_proj": 0}, "alpha_pattern['q_proj'] is 0; a positive number"),
    ],
)
def test_numbers_that_make_no_scale(
    refuse: Refuse,
    checkpoint: Path,
    configure: Callable[..., None],
    key: str,
    value: object,
    words: str,
) -> None:
    """They would be taken for others, or make weights that are no numbers."""
    configure(**{key: value})
    refuse(checkpoint, "adapter_config.json", words)


def test_rank_of_another_adapter(
    refuse: Refuse, checkpoint: Path, configure: Callable[..., None]
) -> None:
    configure(r=8)
    refuse(checkpoint, "adapter_model.safetensors", "90 misfits", "is [4, 128], not [8, 128]")


def test_pattern_that_is_no_regular_expression(
    refuse: Refuse, checkpoint: Path, configure: Callable[..., None]
) -> None:
    configure(rank_pattern={"q_proj(": 8})
    refuse(checkpoint, "adapter_config.json", "rank_pattern", "'q_proj('", "regular expression")


def test_tensors_that_are_no_adapter_weights(
    refuse: Refuse, checkpoint: Path, change: Callable[..., None]
) -> None:
    names = (f"{Q_PROJ}.lora_magnitude_vector.code", f"{Q_PROJ}.base_layer.bias")
    change(lambda tensors: tensors.update({n: np.ones(4, np.float32) for n in names}))
    refuse(
        checkpoint,
        "adapter_model.safetensors",
        "2 misfits",
        f"{names[0]} is no lora_A or lora_B weight",
        f"{names[1]} is no lora_A or lora_B weight",
    )


@pytest.mark.parametrize("module", ["visual.blocks.0.attn.qkv", f"{LAYERS}.7.mlp.up_proj"])
def test_layers_without_adapters_in_this_model(
    refuse: Refuse, checkpoint: Path, change: Callable[..., None], module: str
) -> None:
    name = f"{module}.lora_A.code.weight"
    change(lambda tensors: tensors.update({name: np.ones((4, 32), np.float32)}))
    refuse(checkpoint, f"{name} adapts a layer that has no adapter in this model")


def test_one_half_missing(refuse: Refuse, checkpoint: Path, change: Callable[..., None]) -> None:
    change(lambda tensors: tensors.pop(f"{Q_PROJ}.lora_B.code.weight"))
    refuse(checkpoint, f"{Q_PROJ}.lora_A.code.weight has no lora_B beside it")


def test_unknown_task(refuse: Refuse, checkpoint: Path, change: Callable[..., None]) -> None:
    name = f"{Q_PROJ}.lora_A.poetry.weight"
    change(lambda tensors: tensors.update({name: np.ones((4, 64), np.float32)}))
    refuse(checkpoint, f"{name} is for task 'poetry', not in task_names")


def test_missing_task(refuse: Refuse, checkpoint: Path, change: Callable[..., None]) -> None:
    def damage(tensors: Tensors) -> None:
        for name in [n for n in tensors if ".code." in n]:
            del tensors[name]

    change(damage)
    refuse(checkpoint, "adapter_model.safetensors", "task 'code' has no adapter tensors")


def test_misfits_are_listed_at_once(
    refuse: Refuse, checkpoint: Path, change: Callable[..., None]
) -> None:
    def damage(tensors: Tensors) -> None:
        del tensors[f"{Q_PROJ}.lora_A.code.weight"]
        tensors[f"{Q_PROJ}.lora_A.retrieval.weight"] = np.ones((4, 63), np.float32)
        tensors["stranger"] = np.ones(1, np.float32)

    change(damage)
    refuse(
        checkpoint,
        "3 misfits",
        "no lora_A beside it",
        "is [4, 63], not [4, 64] (rank 4)",
        "stranger",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("module", [Q_PROJ, "base_model.model.multi_vector_projector"])
def test_adapter_weight_that_is_not_finite(
    refuse: Refuse,
    checkpoint: Path,
    change: Callable[..., None],
    module: str,
    half: str,
    value: float,
) -> None:
    name = f"{module}.lora_{half}.code.weight"

    def damage(tensors: Tensors) -> None:
        tensors[name].flat[3] = value

    change(damage)
    refuse(checkpoint, name, "1 values are NaN or infinite", "file is damaged")


def test_integer_adapter_weights(
    refuse: Refuse, checkpoint: Path, change: Callable[..., None]
) -> None:
    """Quantised adapters keep their scales elsewhere; read as numbers they would be nonsense."""
    name = f"{Q_PROJ}.lora_A.code.weight"
    change(lambda tensors: tensors.update({name: np.ones((4, 64), np.int8)}))
    refuse(checkpoint, f"{name} is I8")
