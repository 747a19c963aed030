"""The options of one call, checked before any work starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from trine.runtime.bundle.model_config import MAX_TOKENS, PROMPTS, ModelConfig
from trine.runtime.errors import InputError

__all__ = ["Request", "check_count", "check_request"]

#: Tasks without roles: both sides are embedded with the query's prefix.
SYMMETRIC_TASKS = ("text-matching",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Checked options.

    Attributes:
        tasks: of each item.
        prefixes: of each item's text, e.g. "Query: ".
        truncate_dim: leading dimensions to keep, or None for all.
        max_length: of a text in tokens, prefix included.
        max_pixels: of an image after resizing.
    """

    tasks: tuple[str, ...]
    prefixes: tuple[str, ...]
    truncate_dim: int | None
    max_length: int
    max_pixels: int

    def part(self, first: int, last: int) -> "Request":
        """Return the same options for items `first` to `last`, the last excluded."""
        return replace(self, tasks=self.tasks[first:last], prefixes=self.prefixes[first:last])


def check_request(  # noqa: PLR0913 - the one place where a call's options meet
    known_tasks: Sequence[str],
    model: ModelConfig,
    *,
    num_items: int,
    task: str | Sequence[str] | None,
    prompt_name: str | Sequence[str] | None = None,
    truncate_dim: int | None = None,
    max_length: int | None = None,
    max_pixels: int | None = None,
    batch_size: int = 1,
) -> Request:
    """Return the options of a call, with what was left out filled in.

    Raises:
        InputError: an option is unknown or out of range; the message lists what is allowed.
    """
    if task is None:
        raise InputError(
            f"no task was given; pass task= or set embedder.task to one of {list(known_tasks)}"
        )
    tasks = _one_each("task", task, known_tasks, num_items)
    prompts = _one_each(
        "prompt_name", "query" if prompt_name is None else prompt_name, tuple(PROMPTS), num_items
    )
    if truncate_dim is not None and (
        not _is_whole(truncate_dim) or truncate_dim not in model.matryoshka_dims
    ):
        raise InputError(
            f"truncate_dim is {truncate_dim!r}; this model has {list(model.matryoshka_dims)}"
        )
    length = MAX_TOKENS if max_length is None else check_count("max_length", max_length)
    pixels = model.image.max_pixels if max_pixels is None else check_count("max_pixels", max_pixels)
    if pixels < model.image.min_pixels:
        raise InputError(
            f"max_pixels is {pixels}, less than the model's min_pixels of {model.image.min_pixels}"
        )
    check_count("batch_size", batch_size)
    return Request(
        tasks=tasks,
        prefixes=tuple(
            PROMPTS["query" if t in SYMMETRIC_TASKS else prompt]
            for t, prompt in zip(tasks, prompts, strict=True)
        ),
        truncate_dim=None if truncate_dim is None else int(truncate_dim),
        max_length=min(length, model.max_tokens),
        max_pixels=pixels,
    )


def _one_each(
    option: str, value: str | Sequence[str], known: Sequence[str], num_items: int
) -> tuple[str, ...]:
    """Return a name for each item: the one given for all, or the list given, checked."""
    if not isinstance(value, str | Sequence | np.ndarray):
        raise InputError(f"{option} is {value!r}; known are {list(known)}")
    names = (value,) * num_items if isinstance(value, str) else tuple(value)
    if len(names) != num_items:
        raise InputError(
            f"{option} has {len(names)} names for {num_items} items; give one for each"
        )
    for name in (value,) if isinstance(value, str) else names:
        if name not in known:
            raise InputError(f"{option} is {name!r}; known are {list(known)}")
    return names


def check_count(name: str, value: object) -> int:
    """Return the number of an option called `name`; numpy's whole numbers are as good as Python's.

    Raises:
        InputError: it is no whole number of at least 1.
    """
    if not _is_whole(value) or value < 1:
        raise InputError(f"{name} is {value!r}; give a whole number of at least 1")
    return int(value)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
