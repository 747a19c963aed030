"""The published model in PyTorch, float32 or bfloat16, with one task's adapter merged."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from peers.contract import Call, Inputs, Setup, UnsupportedCase
from peers.images import picture_sequence
from peers.padding import embed_padded
from trine.export.torch_reference import TorchReference
from trine.runtime.sequence import TokenSequence

if TYPE_CHECKING:
    import torch

__all__ = ["PublishedModel", "merged_model", "pooled"]

Dtype = Literal["float32", "bfloat16"]


def merged_model(setup: Setup, dtype: Dtype) -> Any:
    """Return transformers' `Qwen2_5_VLModel` with `setup.task` merged, in `dtype`.

    Buffers stay float32, as `from_pretrained` leaves them.
    """
    import torch

    reference = TorchReference(setup.checkpoint)
    # The first call merges the adapter.
    reference.hidden_states([0], setup.task)
    model = reference._model
    if dtype != "float32":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def pooled(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Return [B, hidden] normalised: the mean of [B, S, hidden] where the mask [B, S] is 1."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / mean.norm(dim=-1, keepdim=True)


class PublishedModel:
    """transformers, one forward pass a rectangle of texts, one a picture.

    Args:
        setup: the model and its task.
        dtype: of weights and activations.
        batch: texts a rectangle, sorted by length; None for all in one.
        compiled: whether torch.compile is applied to the decoder.
    """

    def __init__(self, setup: Setup, dtype: Dtype, batch: int | None, compiled: bool) -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self._batch = batch
        self._bundle = setup.bundle
        self._model = merged_model(setup, dtype)
        self._dtype = getattr(torch, dtype)
        self._language: Callable[..., Any] = self._model.language_model
        if compiled:
            self._language = torch.compile(self._language, dynamic=False)
        self.file_bytes = sum(
            path.stat().st_size for path in setup.checkpoint.rglob("*.safetensors")
        )

    def ready(self, inputs: Inputs) -> Call:
        kind = inputs.case.kind
        if kind in ("texts", "cold", "load"):
            texts = inputs.texts[:1] if kind == "load" else inputs.texts
            return lambda: embed_padded(self._embed, texts, self._batch)
        if kind == "images":
            pages = [picture_sequence(pixels, self._bundle) for pixels in inputs.pictures]
            return lambda: self._embed_pictures(pages)
        raise UnsupportedCase(f"the published code has no call for {kind}")

    def _embed(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            mask_tensor = torch.from_numpy(mask)
            full = bool(mask.all())
            output = self._language(
                input_ids=torch.from_numpy(ids),
                attention_mask=None if full else mask_tensor,
                use_cache=False,
            )
            vectors = pooled(output.last_hidden_state.float(), mask_tensor)
        return np.asarray(vectors.numpy(), np.float32)

    def _embed_pictures(self, sequences: Sequence[TokenSequence]) -> NDArray[np.float32]:
        import torch

        rows = []
        for sequence in sequences:
            (image,) = sequence.images
            with torch.inference_mode():
                output = self._model(
                    input_ids=torch.from_numpy(sequence.token_ids[None]),
                    pixel_values=torch.from_numpy(image.patches).to(self._dtype),
                    image_grid_thw=torch.tensor([(1, *image.grid)]),
                    use_cache=False,
                )
                mask = torch.from_numpy(sequence.pooled[None])
                rows.append(pooled(output.last_hidden_state.float(), mask).numpy()[0])
        return np.array(rows)
