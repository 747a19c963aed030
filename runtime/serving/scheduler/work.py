"""Says what calls ask of the engine: estimated before anything is tokenised or decoded."""

from collections.abc import Iterable
from dataclasses import dataclass

from trine.runtime.inputs import ImageText
from trine.runtime.serving.scheduler.batching import BatchBudget, is_short
from trine.runtime.serving.service.call_checks import num_images, sequence_groups
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Amount",
    "Work",
    "estimate_amount",
    "estimate_call",
    "estimate_work",
]

#: Characters a token stands for in most European languages; other scripts are counted as one each.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Amount:
    """Work of the engine.

    Attributes:
        tokens: of the decoder.
        patches: of the vision tower.
    """

    tokens: int = 0
    patches: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens + other.tokens, self.patches + other.patches)


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks of the engine.

    Attributes:
        short: its entries of the short lane.
        long: its entries of the other lane.
        largest: its largest entry of that other lane.
    """

    short: Amount = Amount()
    long: Amount = Amount()
    largest: Amount = Amount()

    @property
    def tokens(self) -> int:
        """Of both lanes."""
        return self.short.tokens + self.long.tokens

    @property
    def all_short(self) -> bool:
        """Whether it waits for the short lane alone."""
        return self.long == Amount()


def estimate_amount(
    items: Iterable[EmbedItem], max_length: int, patches_per_image: int = 0
) -> Amount:
    """Return roughly what items ask of the engine, without tokenising or decoding.

    Args:
        items: of a call.
        max_length: tokens of each text.
        patches_per_image: at most.
    """
    tokens = images = 0
    for item in items:
        tokens += _estimate_tokens(item, max_length)
        images += num_images(item)
    return Amount(tokens, images * patches_per_image)


def estimate_work(entries: Iterable[Amount], budget: BatchBudget) -> Work:
    """Return what a call asks of the engine in each lane.

    Args:
        entries: what each sequence of the call asks.
        budget: that says what is short.
    """
    short, long, largest = Amount(), Amount(), Amount()
    for entry in entries:
        if is_short(entry.tokens, entry.patches, budget):
            short += entry
        else:
            long += entry
            largest = Amount(max(largest.tokens, entry.tokens), max(largest.patches, entry.patches))
    return Work(short, long, largest)


def estimate_call(
    call: EmbedCall, max_length: int, patches_per_image: int, budget: BatchBudget
) -> Work:
    """Return roughly what a call asks of the engine in each lane.

    Args:
        call: whose items are of one sequence each, or of one a document.
        max_length: tokens of each text.
        patches_per_image: at most.
        budget: that says what is short.
    """
    entries = (
        estimate_amount(call.items[group.start : group.stop], max_length, patches_per_image)
        for group in sequence_groups(call)
    )
    return estimate_work(entries, budget)


def _estimate_tokens(item: EmbedItem, max_length: int) -> int:
    content = item.content
    text = content.text or "" if isinstance(content, ImageText) else content
    rate = CHARACTERS_PER_TOKEN if isinstance(text, str) and text.isascii() else 1
    return min(len(text) // rate + 4, max_length)
