"""Decides which sequences share a run of the decoder, and which pictures one of the vision tower.

Pure functions: numbers in, groups of indices out.
"""

from collections.abc import Hashable, Sequence

__all__ = ["plan_decoder_runs", "plan_vision_runs"]

#: The padded view that attention sees may hold this many times the token budget in slots.
PADDING_ALLOWANCE = 2


def plan_decoder_runs(
    lengths: Sequence[int], groups: Sequence[Hashable], max_tokens: int
) -> list[list[int]]:
    """Return runs of the decoder: lists of sequence numbers that cover each sequence once.

    Sequences of like length share a run, so that the padded view attention needs stays small.

    Args:
        lengths: tokens of each sequence, at least 1.
        groups: sequences of different groups never share a run.
        max_tokens: budget of a run; a longer sequence has a run of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (str(groups[i]), -lengths[i], i))
    runs: list[list[int]] = []
    total = 0
    for index in order:
        run = runs[-1] if runs else []
        longest = lengths[run[0]] if run else 0
        fits = (
            bool(run)
            and groups[run[0]] == groups[index]
            and total + lengths[index] <= max_tokens
            and longest * (len(run) + 1) <= PADDING_ALLOWANCE * max_tokens
        )
        if fits:
            run.append(index)
            total += lengths[index]
        else:
            runs.append([index])
            total = lengths[index]
    return runs


def plan_vision_runs(num_patches: Sequence[int], max_patches: int) -> list[list[int]]:
    """Return runs of the vision tower: lists of picture numbers that cover each picture once.

    Pictures of one run have equally many patches, so that full attention needs neither padding nor
    mask.

    Args:
        num_patches: of each picture.
        max_patches: budget of a run; a larger picture has a run of its own.
    """
    runs: list[list[int]] = []
    for index in sorted(range(len(num_patches)), key=lambda i: (num_patches[i], i)):
        size = num_patches[index]
        if runs and num_patches[runs[-1][0]] == size and size * (len(runs[-1]) + 1) <= max_patches:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
