"""Decides which sequences share a run of the decoder, and which images one of the vision tower.

Pure functions: numbers in, groups of indices out.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["PADDING_ALLOWANCE", "RunCosts", "plan_decoder_runs", "plan_vision_runs"]

#: The padded view that attention sees may hold this many times the token budget in slots.
PADDING_ALLOWANCE = 2
#: Tokens in whose time a run's fixed costs are paid: weights read once more, threads gathered. The
#: linear layers of both int8 and float32 engines take as long for 16 tokens as for fewer.
RUN_TOKENS = 16
#: How much faster linear layers compute than attention: 2 to 4 for 8-bit products, 1 for float32
#: ones. In between, since plans do not depend on the precision.
LINEAR_SPEEDUP = 2


@dataclass(frozen=True, slots=True)
class RunCosts:
    """What a run of the decoder costs beside its linear layers, in the time those take a token.

    Attributes:
        run: whatever is in it.
        slot_pair: attention of one slot of the padded view to another; 0 for engines whose
            attention knows where sequences end.
    """

    run: float
    slot_pair: float

    @classmethod
    def of(cls, config: DecoderConfig, pads_attention: bool) -> "RunCosts":
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
        return cls(RUN_TOKENS, pair if pads_attention else 0.0)


def plan_decoder_runs(
    lengths: Sequence[int], groups: Sequence[Hashable], max_tokens: int, costs: RunCosts
) -> list[list[int]]:
    """Return runs of the decoder: lists of sequence numbers that cover each sequence once.

    Sequences of like length share a run. One is full when its tokens are as many as the budget, or
    when the slots that attention computes for nothing cost more than another run would.

    Args:
        lengths: tokens of each sequence, at least 1.
        groups: sequences of different groups never share a run.
        max_tokens: budget of a run; a longer sequence has a run of its own.
        costs: of runs.
    """
    order = sorted(range(len(lengths)), key=lambda i: (str(groups[i]), -lengths[i], i))
    runs: list[list[int]] = []
    total, wasted = 0, 0.0
    for index in order:
        run = runs[-1] if runs else []
        longest = lengths[run[0]] if run else 0
        waste = costs.slot_pair * (longest**2 - lengths[index] ** 2)
        fits = (
            bool(run)
            and groups[run[0]] == groups[index]
            and total + lengths[index] <= max_tokens
            and longest * (len(run) + 1) <= PADDING_ALLOWANCE * max_tokens
            and wasted + waste <= costs.run
        )
        if fits:
            run.append(index)
            total += lengths[index]
            wasted += waste
        else:
            runs.append([index])
            total, wasted = lengths[index], 0.0
    return runs


def plan_vision_runs(num_patches: Sequence[int], max_patches: int) -> list[list[int]]:
    """Return runs of the vision tower: lists of image numbers that cover each image once.

    Images of one run have equally many patches, so that full attention needs neither padding nor
    mask.

    Args:
        num_patches: of each image.
        max_patches: budget of a run; a larger image has a run of its own.
    """
    runs: list[list[int]] = []
    for index in sorted(range(len(num_patches)), key=lambda i: (num_patches[i], i)):
        size = num_patches[index]
        if runs and num_patches[runs[-1][0]] == size and size * (len(runs[-1]) + 1) <= max_patches:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
