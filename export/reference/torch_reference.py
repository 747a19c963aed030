"""jina-embeddings-v4 in float32 PyTorch: what every engine of this project is compared with.

Weights are read by this project's own safetensors reader; everything after that is transformers'
Qwen2.5-VL. Not optimised: one sequence a call, on the CPU. PyTorch and transformers are imported
when a `TorchReference` is made, so that the exporter runs without them.
"""

from collections.abc import Mapping
from importlib import import_module
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trine.export.reference.weights import (
    PROJECTOR,
    Stored,
    adapter_changes,
    base_weights,
    json_object,
)
from trine.runtime.errors import CheckpointError, InputError, missing_package

if TYPE_CHECKING:
    import torch

__all__ = ["TorchReference"]

#: (t, h, w) of one image in patches.
Grid = tuple[int, int, int]
#: Left out of the checkpoint's configs: this reference is float32 and scaled-dot-product attention.
IGNORED_SETTINGS = {"dtype", "torch_dtype", "_attn_implementation", "attn_implementation"}
NORM_EPS = 1e-12


class TorchReference:
    """The model in float32 with one task's adapter merged; the task may change between calls.

    Args:
        checkpoint: folder in the published layout: `config.json`, safetensors files, `adapters/`.

    Attributes:
        tasks: names of the adapters, sorted.
        model: the published classes of transformers, in evaluation mode.

    Raises:
        DependencyError: torch or transformers is not installed.
        CheckpointError: a file or tensor is missing, unknown or of the wrong shape.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._torch = _import_torch()
        self._weights = base_weights(checkpoint)
        self._adapters = adapter_changes(checkpoint / "adapters")
        self.tasks = tuple(sorted(self._adapters))
        self.model = _empty_model(json_object(checkpoint / "config.json"))
        self._projector = _empty_projector(self._torch, self._weights)
        self._parameters = {
            **dict(self.model.named_parameters()),
            **{f"{PROJECTOR}.{name}": p for name, p in self._projector.named_parameters()},
        }
        self._check_adapters()
        self._load_base()
        self._task: str | None = None

    def encode(
        self,
        token_ids: list[int],
        task: str,
        *,
        pixels: NDArray[np.float32] | None = None,
        grids: list[Grid] | None = None,
        pool: tuple[int, int] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the single vector and the multi-vector of one sequence, L2-normalised.

        Args:
            token_ids: prefix, special and image tokens included; no padding.
            task: one of `tasks`.
            pixels: float32 [P, patch features] of all images of the sequence, rows as the published
                processor orders them (2×2 blocks in raster order, not windows); None: no images.
            grids: (t, h, w) in patches of each image, in order; given with `pixels`.
            pool: first position and the one after the last that the single vector is the mean of;
                None for all. The published model pools an image from vision start to vision end.

        Returns:
            float32 [hidden] and float32 [T, projector], each vector of length 1.

        Raises:
            InputError: the task is unknown, or tokens, pixels, grids and pool do not fit together.
        """
        start, stop = pool or (0, len(token_ids))
        if pool is not None and not 0 <= start < stop <= len(token_ids):
            raise InputError(
                f"pool {pool} is not a range in {len(token_ids)} tokens; "
                "give 0 <= start < stop <= number of tokens"
            )
        hidden = self._run(token_ids, task, pixels, grids)
        with self._torch.inference_mode():
            normalize = self._torch.nn.functional.normalize
            single = normalize(hidden[start:stop].mean(dim=0), dim=-1, eps=NORM_EPS)
            multi = normalize(self._projector(hidden), dim=-1, eps=NORM_EPS)
        return _array(single), _array(multi)

    def hidden_states(
        self,
        token_ids: list[int],
        task: str,
        *,
        pixels: NDArray[np.float32] | None = None,
        grids: list[Grid] | None = None,
    ) -> NDArray[np.float32]:
        """Return float32 [T, hidden] after the final norm, not normalised. See `encode`."""
        return _array(self._run(token_ids, task, pixels, grids))

    def image_features(self, pixels: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
        """Return the image tokens of one image: float32 [N, hidden], merged grid in raster order.

        Args:
            pixels: float32 [P, patch features], rows as in `encode`.
            grid: (t, h, w) in patches.
        """
        rows, grid_tensor = self._image_tensors(pixels, [grid])
        with self._torch.inference_mode():
            return _array(self.model.get_image_features(rows, grid_tensor)[0])

    def _run(
        self,
        token_ids: list[int],
        task: str,
        pixels: NDArray[np.float32] | None,
        grids: list[Grid] | None,
    ) -> "torch.Tensor":
        vocab_size = self._parameters["language_model.embed_tokens.weight"].shape[0]
        if not token_ids or min(token_ids) < 0 or max(token_ids) >= vocab_size:
            raise InputError(
                f"{len(token_ids)} token ids cannot be used: one or more are needed, "
                f"each from 0 to {vocab_size - 1}"
            )
        if (pixels is None) != (grids is None):
            raise InputError("pixels and grids belong together: give both or neither")
        rows = grid_tensor = None
        if pixels is not None and grids is not None:
            self._check_image_tokens(token_ids, grids)
            rows, grid_tensor = self._image_tensors(pixels, grids)
        self._use_task(task)
        with self._torch.inference_mode():
            # Without a mask and position ids the model counts positions itself, by get_rope_index.
            output = self.model(
                input_ids=self._torch.tensor([token_ids]),
                pixel_values=rows,
                image_grid_thw=grid_tensor,
                use_cache=False,
            )
        return output.last_hidden_state[0]

    def _check_image_tokens(self, token_ids: list[int], grids: list[Grid]) -> None:
        merged = self.model.visual.spatial_merge_size**2
        expected = sum(prod(grid) // merged for grid in grids)
        found = token_ids.count(self.model.config.image_token_id)
        if found != expected:
            raise InputError(
                f"{found} image tokens do not match grids {grids}, which make {expected}; "
                f"repeat the image token once for every {merged} patches"
            )

    def _image_tensors(
        self, pixels: NDArray[np.float32], grids: list[Grid]
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        num_patches = sum(prod(grid) for grid in grids)
        if pixels.ndim != 2 or len(pixels) != num_patches:
            raise InputError(
                f"pixels have shape {pixels.shape}, but grids {grids} need {num_patches} rows; "
                "give one row a patch"
            )
        rows = np.array(pixels, np.float32)  # torch wants to own what it may write to
        return self._torch.from_numpy(rows), self._torch.tensor(grids)

    def _use_task(self, task: str) -> None:
        """Set every adapted weight to its value in the file plus the change of `task`.

        From the file, never by subtraction, so that going back to a task gives the same bits.
        """
        if task == self._task:
            return
        if task not in self._adapters:
            raise InputError(f"unknown task {task!r}; this checkpoint has {list(self.tasks)}")
        self._task = None
        changes = self._adapters[task]
        with self._torch.no_grad():
            for module in sorted(set().union(*self._adapters.values())):
                weight = self._tensor(self._weights[f"{module}.weight"])
                if change := changes.get(module):
                    weight += change.scale * (self._tensor(change.up) @ self._tensor(change.down))
                self._parameters[f"{module}.weight"].copy_(weight)
        self._task = task

    def _tensor(self, stored: Stored) -> "torch.Tensor":
        return self._torch.from_numpy(stored.float32())

    def _load_base(self) -> None:
        shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        found = {name: stored.shape for name, stored in self._weights.items()}
        wrong = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
        if wrong:
            lines = [f"{n} (expected {shapes.get(n)}, found {found.get(n)})" for n in wrong]
            raise CheckpointError(
                f"the weights do not fit config.json: {'; '.join(lines)}; get the files again"
            )
        with self._torch.no_grad():
            for name, stored in self._weights.items():
                self._parameters[name].copy_(self._tensor(stored))

    def _check_adapters(self) -> None:
        for task, changes in self._adapters.items():
            for module, change in changes.items():
                parameter = self._parameters.get(f"{module}.weight")
                if parameter is None or tuple(parameter.shape) != change.shape:
                    raise CheckpointError(
                        f"the adapter {task!r} changes {module} by a matrix of shape "
                        f"{change.shape}, which the model does not have; "
                        "adapter and weights are of different models"
                    )


def _import_torch() -> ModuleType:
    try:
        return import_module("torch")
    except ImportError as cause:
        raise missing_package("torch", "reference", "to compare with PyTorch") from cause


def _empty_model(config: dict[str, object]) -> Any:
    """Return a float32 `Qwen2_5_VLModel` of the checkpoint's sizes, its weights not set yet."""
    try:
        from transformers.modeling_utils import no_init_weights
        from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLModel
    except ImportError as cause:
        raise missing_package("transformers", "reference", "to compare with PyTorch") from cause
    text = config.get("text_config", config)
    vision = config.get("vision_config")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError("config.json: vision_config is missing; get the file again")
    ids = {name: value for name, value in config.items() if name.endswith("_token_id")}
    model_config = Qwen2_5_VLConfig(
        text_config=_old_rope_keys(_architecture(text)), vision_config=_architecture(vision), **ids
    )
    model_config._attn_implementation = "sdpa"
    with no_init_weights():
        return Qwen2_5_VLModel(model_config).eval()


def _architecture(config: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name not in IGNORED_SETTINGS}


def _old_rope_keys(text: dict[str, object]) -> dict[str, object]:
    """Return the decoder's config with the rotary keys of transformers 4, where it has 5's."""
    rope = text.get("rope_parameters")
    if not isinstance(rope, dict):
        return text
    theta = rope.get("rope_theta", text.get("rope_theta"))
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {**text, "rope_theta": theta, "rope_scaling": scaling}


def _empty_projector(torch: ModuleType, weights: Mapping[str, Stored]) -> Any:
    name = f"{PROJECTOR}.weight"
    if name not in weights or len(weights[name].shape) != 2:
        raise CheckpointError(
            f"tensor {name!r} is missing or not a matrix; merged releases leave it out: "
            "give the checkpoint with the adapters"
        )
    outputs, inputs = weights[name].shape
    return torch.nn.Linear(inputs, outputs, bias=f"{PROJECTOR}.bias" in weights)


def _array(tensor: "torch.Tensor") -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.numpy()
    return array
