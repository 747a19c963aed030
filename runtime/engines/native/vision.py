"""The vision tower on the native kernels: patches in window order in, image tokens out."""

from dataclasses import dataclass

import numpy as np

from trine.kernels.cpu.kernels import CpuKernels
from trine.runtime.bundle.model_config import VISION_NORM_EPS, VisionConfig
from trine.runtime.engines.native.layers import LayerNames, LayerReader
from trine.runtime.engines.native.linear import Floats, Linear, Rows
from trine.runtime.engines.native.stack import AttentionLayout, StackRun, TransformerStack
from trine.runtime.engines.native.workspace import Workspace
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["VisionTower"]


@dataclass(frozen=True, slots=True, eq=False)
class VisionTower:
    """The patch product, the blocks and the merger. Stateless, so safe from several threads."""

    config: VisionConfig
    patch_embed: Linear
    stack: TransformerStack
    merger: tuple[Linear, Linear]

    @classmethod
    def read(cls, reader: LayerReader, config: VisionConfig) -> "VisionTower":
        """Return the tower with the weights of a graph.

        Raises:
            BundleError: one is not there.
        """
        heads = (config.num_heads, config.num_heads)
        stack = TransformerStack(
            [reader.layer(_names(block)) for block in range(config.depth)],
            reader.vector("merger.ln_q.weight"),
            VISION_NORM_EPS,
            AttentionLayout(heads=heads, head_dim=config.head_dim, causal=False),
        )
        merger = reader.linear("merger.mlp.0"), reader.linear("merger.mlp.2")
        return cls(config, reader.linear("patch_embed"), stack, merger)

    def run(self, inputs: VisionInputs, kernels: CpuKernels, workspace: Workspace) -> Floats:
        """Return image tokens, float32 [N, hidden] in window order, owned by the caller.

        Args:
            inputs: of images of equally many patches.
            kernels: to compute with.
            workspace: that no other run uses meanwhile.
        """
        config, patches = self.config, np.ascontiguousarray(inputs.patches)
        windows = np.concatenate([[0], np.cumsum(inputs.window_lengths, dtype=np.int64)])
        num_images = int(inputs.num_images[0])
        images = np.arange(num_images + 1) * (len(patches) // num_images)
        run = StackRun(
            kernels=kernels,
            workspace=workspace,
            rope_cos=np.ascontiguousarray(inputs.rope_cos),
            rope_sin=np.ascontiguousarray(inputs.rope_sin),
            starts=lambda block: images if block in config.full_attention_blocks else windows,
            deltas=None,
        )
        residual = _through(self.patch_embed, patches, config.hidden_size, run)
        normed = self.stack.run(residual, run)
        width = config.hidden_size * config.spatial_merge_size**2
        inner = _through(self.merger[0], normed.reshape(-1, width), width, run)
        kernels.gelu(inner)
        return _through(self.merger[1], inner, config.out_hidden_size, run)


def _through(layer: Linear, x: Floats, width: int, run: StackRun) -> Floats:
    """Return the output of a layer, float32 [T, width]."""
    out = np.empty((len(x), width), np.float32)
    layer.add_to(run.kernels, Rows(run.kernels, run.workspace, x), out)
    return out


def _names(block: int) -> LayerNames:
    prefix = f"blocks.{block}"
    return LayerNames(
        input_norm=f"{prefix}.norm1.weight",
        qkv=f"{prefix}.attn.qkv",
        o=f"{prefix}.attn.proj",
        post_norm=f"{prefix}.norm2.weight",
        gate=f"{prefix}.mlp.gate_proj",
        up=f"{prefix}.mlp.up_proj",
        down=f"{prefix}.mlp.down_proj",
    )
