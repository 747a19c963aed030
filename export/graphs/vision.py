"""The vision tower's graph, as far as both dialects share it: weights, the embedding, the merger.

The host orders the patches by attention window, so the graph needs no permutation, no loop and no
data-dependent shape. Architecture: Qwen2.5-VL's vision tower (RMSNorm, SwiGLU with biases, 2-D
rotary positions, merger).
"""

from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import GraphBuilder, Weight
from trine.runtime.bundle.model_config import VisionConfig

__all__ = ["VisionGraph"]


class LinearLayers(Protocol):
    """Adds linear layers in the precision a plan has for them."""

    def add(self, name: str, x: ir.Value, weight: Weight, bias: Weight | None = None) -> ir.Value:
        """Return x · weight + bias."""
        ...


class VisionGraph:
    """Builds the graph; a dialect adds the blocks.

    Args:
        config: of the vision tower.
        checkpoint: of the `visual.…` weights.
    """

    linears: LinearLayers

    def __init__(self, config: VisionConfig, checkpoint: Checkpoint) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.graph = GraphBuilder("vision")

    def embed(self, patches: ir.Value) -> ir.Value:
        """Return float32 [..., hidden]: the patches through the convolution."""
        embedded = self.linears.add("patch_embed", patches, self._patch_weight())
        return self.graph.cast(embedded, ir.DataType.FLOAT)

    def _patch_weight(self) -> Weight:
        """Return the patch convolution, whose stride is its size, as [features, hidden]."""
        features, hidden = self.config.patch_features, self.config.hidden_size

        def read() -> NDArray[np.float32]:
            kernel = self.checkpoint.float32("visual.patch_embed.proj.weight")
            return np.ascontiguousarray(kernel.reshape(hidden, features).T)

        return Weight("patch_embed.weight", (features, hidden), read)

    def vector(self, name: str) -> Weight:
        """Return a norm's weight, or a bias."""
        stored = f"visual.{name}"
        shape = self.checkpoint.info(stored).shape
        return Weight(name, shape, lambda: self.checkpoint.float32(stored))

    def weight(self, name: str) -> Weight:
        """Return a linear layer's [in, out]."""
        stored = f"visual.{name}.weight"
        num_out, num_in = self.checkpoint.info(stored).shape
        return Weight(
            f"{name}.weight",
            (num_in, num_out),
            lambda: np.ascontiguousarray(self.checkpoint.float32(stored).T),
        )

    def linear(self, name: str, x: ir.Value) -> ir.Value:
        """Return a whole layer of `x`."""
        return self.linears.add(name, x, self.weight(name), self.vector(f"{name}.bias"))

    def merge(self, normed: ir.Value) -> ir.Value:
        """Return [patches / merge², out_hidden]: groups of merge² patches through the merger."""
        width = self.config.hidden_size * self.config.spatial_merge_size**2
        shape = self.graph.constant("merged", [-1, width])
        grouped = self.graph.node("merger.grouped", "Reshape", [normed, shape])
        # The merger's GELU is the exact one, with erf.
        inner = self.graph.cast(self.linear("merger.mlp.0", grouped), ir.DataType.FLOAT)
        active = self.graph.node("merger.gelu", "Gelu", [inner])
        return self.graph.cast(self.linear("merger.mlp.2", active), ir.DataType.FLOAT)
