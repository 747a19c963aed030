"""The numbers of one model, as its checkpoint states them and as the bundle carries them.

Nothing here has a default taken from the 3B model: every number is read from the checkpoint's own
files by `trine.export.checkpoint.config`. Constants of the architecture that no file states are
named at the bottom.
"""

from dataclasses import dataclass

__all__ = [
    "MAX_TOKENS",
    "PROMPTS",
    "VISION_NORM_EPS",
    "VISION_ROPE_THETA",
    "DecoderConfig",
    "ImageConfig",
    "ModelConfig",
    "TokenIds",
    "VisionConfig",
]

#: Longest text in tokens the published code takes (`max_length` is capped at this).
MAX_TOKENS = 32768
#: Prefix of a text by prompt name, from the published `PREFIX_DICT`.
PROMPTS = {"query": "Query: ", "passage": "Passage: "}
#: Base of the vision tower's rotary frequencies; fixed in the published architecture.
VISION_ROPE_THETA = 10000.0
#: Epsilon of the vision tower's RMS norms; fixed in the published architecture.
VISION_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The language model: causal, grouped-query attention, SwiGLU, multimodal rotary positions."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    #: Rotary frequency pairs that follow the time, height and width position; sums to head_dim / 2.
    mrope_section: tuple[int, ...]
    vocab_size: int
    max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The vision tower: windowed attention with some full-attention blocks, then a 2×2 merger."""

    hidden_size: int
    depth: int
    num_heads: int
    intermediate_size: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    #: Side of an attention window in pixels.
    window_size: int
    full_attention_blocks: tuple[int, ...]
    out_hidden_size: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_features(self) -> int:
        """Length of one flattened patch: channels × frames × height × width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_side(self) -> int:
        """Side of an attention window in merged image tokens."""
        return self.window_size // self.spatial_merge_size // self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Ids with a meaning to the model."""

    image_pad: int
    vision_start: int
    vision_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How an image becomes patches, from `preprocessor_config.json`."""

    min_pixels: int
    max_pixels: int
    #: Per channel, of values scaled by `rescale_factor`.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything the runtime must know of a model to feed its graphs and read their outputs."""

    decoder: DecoderConfig
    vision: VisionConfig
    image: ImageConfig
    token_ids: TokenIds
    tasks: tuple[str, ...]
    projector_dim: int
    matryoshka_dims: tuple[int, ...]
    #: Dimensions that single vectors are cut to where a call does not say; None for all.
    truncate_dim: int | None
    #: Longest sequence in tokens: `MAX_TOKENS`, or less where the checkpoint's positions end
    #: sooner.
    max_tokens: int
