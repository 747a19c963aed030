"""The published model in PyTorch, float32 or bfloat16, an adapter merged into its weights.

Loaded as its users load it, by `from_pretrained`, which maps the files; merging is cheaper at run
time than PEFT's side branch, so that this competitor is the published path at its best.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.contract import Call, Inputs, Setup, UnsupportedCase
from backends.images import pixels_sequence
from backends.padding import embed_padded
from backends.reference import item_tasks
from trine.export.reference.weights import adapter_changes
from trine.runtime.preprocessing.sequence import TokenSequence

if TYPE_CHECKING:
    import torch

__all__ = ["PublishedModel", "merged_model", "pooled"]

Dtype = Literal["float32", "bfloat16"]


def merged_model(setup: Setup, dtype: Dtype, task: str) -> Any:
    """Return transformers' `Qwen2_5_VLModel` with a task's adapter merged, in `dtype`.

    Raises:
        RuntimeError: the checkpoint's names are not the model's, so that weights would be random.
    """
    import torch
    from transformers.models.qwen2_5_vl import Qwen2_5_VLModel

    model, loading = Qwen2_5_VLModel.from_pretrained(
        setup.checkpoint,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise RuntimeError(f"weights of {loading['missing_keys'][:3]} were not found")
    weights = dict(model.named_parameters())
    with torch.inference_mode():
        for module, change in adapter_changes(setup.checkpoint / "adapters")[task].items():
            weight = weights.get(f"{module}.weight")  # the projector is no part of this model
            if weight is not None:
                up, down = (
                    torch.from_numpy(side.float32()).to(weight.dtype)
                    for side in (change.up, change.down)
                )
                weight.addmm_(up, down, alpha=change.scale)
    return model.eval()


def pooled(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Return [B, hidden] normalised: the mean of [B, S, hidden] where the mask [B, S] is 1."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / mean.norm(dim=-1, keepdim=True)


class PublishedModel:
    """transformers, one forward pass a rectangle of texts, one an image.

    Args:
        setup: the model and its task.
        dtype: of weights and activations.
        batch: texts a rectangle, sorted by length; None for all in one.
        compiled: whether torch.compile is applied to the decoder, its weights frozen.
        all_tasks: whether a model a task is loaded, for a case that mixes tasks.
    """

    def __init__(
        self,
        setup: Setup,
        dtype: Dtype,
        *,
        batch: int | None = None,
        compiled: bool = False,
        all_tasks: bool = False,
    ) -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self._batch = batch
        self._setup = setup
        tasks = sorted(adapter_changes(setup.checkpoint / "adapters")) if all_tasks else []
        self._models: Mapping[str, Any] = {
            task: merged_model(setup, dtype, task) for task in tasks or [setup.task]
        }
        self._dtype = getattr(torch, dtype)
        self._language: Mapping[str, Callable[..., Any]] = {
            task: model.language_model for task, model in self._models.items()
        }
        if compiled:
            import torch._inductor.config

            torch._inductor.config.freezing = True
            self._language = {
                task: torch.compile(language, dynamic=False)
                for task, language in self._language.items()
            }
        self.file_bytes = sum(
            path.stat().st_size for path in setup.checkpoint.rglob("*.safetensors")
        )

    def ready(self, inputs: Inputs) -> Call:
        kind = inputs.case.kind
        if kind in ("texts", "cold", "load"):
            texts = inputs.texts[:1] if kind == "load" else inputs.texts
            task = self._setup.task
            return lambda: self._embed_texts(texts, task)
        if kind not in ("images", "mixed"):
            raise UnsupportedCase(f"the published code has no call for {kind}")
        pages = [pixels_sequence(pixels, self._setup.bundle) for pixels in inputs.images]
        count = len(inputs.texts) + len(pages)
        tasks = [self._setup.task] * count
        if kind == "mixed":
            tasks = item_tasks(tuple(sorted(self._models)), count)
        return lambda: self._embed_items(inputs.texts, pages, tasks)

    def _embed_items(
        self,
        texts: Sequence[NDArray[np.int64]],
        pages: Sequence[TokenSequence],
        tasks: Sequence[str],
    ) -> NDArray[np.float32]:
        """Return float32 [texts and pages, hidden]: a rectangle a task, then a pass an image."""
        rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tasks)
        by_task: defaultdict[str, list[int]] = defaultdict(list)
        for row, task in enumerate(tasks[: len(texts)]):
            by_task[task].append(row)
        for task, members in by_task.items():
            vectors = self._embed_texts([texts[row] for row in members], task)
            for row, vector in zip(members, vectors, strict=True):
                rows[row] = vector
        for row, page in enumerate(pages, len(texts)):
            rows[row] = self._embed_image(page, tasks[row])
        return np.array(rows)

    def _embed_texts(self, texts: Sequence[NDArray[np.int64]], task: str) -> NDArray[np.float32]:
        import torch

        def embed(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
            with torch.inference_mode():
                mask_tensor = torch.from_numpy(mask)
                output = self._language[task](
                    input_ids=torch.from_numpy(ids),
                    attention_mask=None if mask.all() else mask_tensor,
                    use_cache=False,
                )
                vectors = pooled(output.last_hidden_state.float(), mask_tensor)
            return np.asarray(vectors.numpy(), np.float32)

        return embed_padded(embed, texts, self._batch)

    def _embed_image(self, sequence: TokenSequence, task: str) -> NDArray[np.float32]:
        import torch

        (image,) = sequence.images
        with torch.inference_mode():
            output = self._models[task](
                input_ids=torch.from_numpy(sequence.token_ids[None]),
                pixel_values=torch.from_numpy(image.patches).to(self._dtype),
                image_grid_thw=torch.tensor([(1, *image.grid)]),
                use_cache=False,
            )
            mask = torch.from_numpy(sequence.pooled[None])
            vector: NDArray[np.float32] = pooled(output.last_hidden_state.float(), mask).numpy()[0]
        return vector
