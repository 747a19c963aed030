"""Plans batches within a token budget: which sequences share one of the decoder, which images one
of the vision tower.

Pure functions and a batch being filled: numbers in, groups of indices out. The embedder and the
server plan with the same rules, and what was planned is what runs.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

from trine.runtime.bundle.model_config import DecoderConfig
from trine.runtime.request import check_count

__all__ = [
    "BatchCosts",
    "BatchLimits",
    "Load",
    "OpenBatch",
    "plan_decoder_batches",
    "plan_vision_batches",
]

#: The padded view that attention sees may hold this many times the token budget in slots.
PADDING_ALLOWANCE = 2
#: Tokens in whose time a batch's fixed costs are paid: weights read once more, threads gathered.
#: The linear layers of both int8 and float32 engines take as long for 16 tokens as for fewer.
BATCH_TOKENS = 16
#: How much faster linear layers compute than attention: 2 to 4 for 8-bit products, 1 for float32
#: ones. In between, since plans do not depend on the precision.
LINEAR_SPEEDUP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much one batch of an engine may hold, and how much is prepared ahead of it.

    Attributes:
        tokens: of the decoder; a longer sequence has a batch of its own.
        patches: of the vision tower, likewise.
        window_tokens: sequences prepared together, among which batches are planned.
    """

    tokens: int = 2048
    patches: int = 4096
    window_tokens: int = 16384

    def __post_init__(self) -> None:
        """Raise InputError, which names the field, for what is no whole number of at least 1."""
        for field in fields(self):
            count = check_count(f"BatchLimits.{field.name}", getattr(self, field.name))
            object.__setattr__(self, field.name, count)


@dataclass(frozen=True, slots=True)
class BatchCosts:
    """What a batch of the decoder costs beside its linear layers, in the time those take a token.

    Attributes:
        batch: whatever is in it.
        slot_pair: attention of one slot of the padded view to another; 0 for engines whose
            attention knows where sequences end.
    """

    batch: float
    slot_pair: float

    @classmethod
    def of(cls, config: DecoderConfig, pads_attention: bool) -> "BatchCosts":
        """Return the costs of a decoder.

        Args:
            config: of the decoder.
            pads_attention: whether its engine's attention computes unused slots.
        """
        heads = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        weights = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
        # Two products a pair, of which causal attention needs one half.
        pair = heads * LINEAR_SPEEDUP / weights
        return cls(BATCH_TOKENS, pair if pads_attention else 0.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What one item asks of the engine.

    Attributes:
        tokens: of its sequence, at least 1.
        patches: of its images.
        group: items of different groups never share a batch.
    """

    tokens: int
    patches: int
    group: Hashable


class OpenBatch:
    """A batch being filled. It holds its first item, however large that is.

    Args:
        first: the item.
        max_tokens: budget of tokens.
        max_patches: budget of patches.
        costs: of batches.
    """

    def __init__(self, first: Load, max_tokens: int, max_patches: int, costs: BatchCosts) -> None:
        self._max_tokens = max_tokens
        self._max_patches = max_patches
        self._costs = costs
        self._group = first.group
        self._count = 1
        self._tokens = self._longest = first.tokens
        self._patches = first.patches
        self._squares = first.tokens**2

    @property
    def full(self) -> bool:
        """Whether no further item can fit."""
        return self._tokens >= self._max_tokens

    def take(self, load: Load) -> bool:
        """Add an item if it fits, and return whether it does.

        It does not where the slots that attention would compute for nothing cost more than another
        batch would.
        """
        count = self._count + 1
        tokens = self._tokens + load.tokens
        patches = self._patches + load.patches
        longest = max(self._longest, load.tokens)
        squares = self._squares + load.tokens**2
        fits = (
            load.group == self._group
            and tokens <= self._max_tokens
            and (not load.patches or patches <= self._max_patches)
            and longest * count <= PADDING_ALLOWANCE * self._max_tokens
            and self._costs.slot_pair * (count * longest**2 - squares) <= self._costs.batch
        )
        if fits:
            self._count, self._tokens, self._patches = count, tokens, patches
            self._longest, self._squares = longest, squares
        return fits


def plan_decoder_batches(
    lengths: Sequence[int], groups: Sequence[Hashable], max_tokens: int, costs: BatchCosts
) -> list[list[int]]:
    """Return batches of the decoder: lists of sequence numbers that cover each sequence once.

    Sequences of like length share a batch. One is full when its tokens are as many as the budget,
    or when the slots that attention computes for nothing cost more than another batch would.

    Args:
        lengths: tokens of each sequence, at least 1.
        groups: sequences of different groups never share a batch.
        max_tokens: budget of a batch; a longer sequence has a batch of its own.
        costs: of batches.
    """
    batches: list[list[int]] = []
    batch: OpenBatch | None = None
    for index in sorted(range(len(lengths)), key=lambda i: (str(groups[i]), -lengths[i], i)):
        load = Load(lengths[index], 0, groups[index])
        if batch is not None and batch.take(load):
            batches[-1].append(index)
        else:
            batches.append([index])
            batch = OpenBatch(load, max_tokens, 0, costs)
    return batches


def plan_vision_batches(num_patches: Sequence[int], max_patches: int) -> list[list[int]]:
    """Return batches of the vision tower: lists of image numbers that cover each image once.

    Images of one batch have equally many patches, so that full attention needs neither padding nor
    mask.

    Args:
        num_patches: of each image.
        max_patches: budget of a batch; a larger image has a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(num_patches)), key=lambda i: (num_patches[i], i)):
        size = num_patches[index]
        last = batches[-1] if batches else []
        if last and num_patches[last[0]] == size and size * (len(last) + 1) <= max_patches:
            last.append(index)
        else:
            batches.append([index])
    return batches
