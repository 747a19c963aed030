"""The options of one call, checked before any work starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

import numpy as np

from trine.runtime.bundle.model_config import MAX_TOKENS, PROMPTS, ModelConfig
from trine.runtime.errors import InputError
from trine.runtime.hardware.processors import num_processors
from trine.runtime.inputs import Prompt
from trine.runtime.outputs import Heads, OutputDtype, check_output_dtype
from trine.runtime.task_names import SYMMETRIC_TASKS, choose_prompt, split_task

__all__ = ["Request", "check_count", "check_dim", "check_request", "check_tasks", "check_threads"]


#: Threads of one batch that are taken however few processors there are.
MOST_THREADS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Checked options.

    Attributes:
        tasks: of each item.
        prefixes: of each item's text, e.g. "Query: ".
        heads: which vectors are wanted, and how many of their dimensions.
        output_dtype: in which the vectors are returned.
        max_length: of a text in tokens, prefix included.
        max_pixels: of an image after resizing.
    """

    tasks: tuple[str, ...]
    prefixes: tuple[str, ...]
    heads: Heads
    output_dtype: OutputDtype
    max_length: int
    max_pixels: int

    def of_items(
        self,
        known_tasks: Sequence[str],
        num_items: int,
        task: str | Sequence[str],
        prompt_name: str | Sequence[str | None] | None,
    ) -> "Request":
        """Return the same options for other items.

        Args:
            known_tasks: that may be named.
            num_items: how many items there are.
            task: an adapter's name, bare or with a side as in "retrieval.query"; or one an item.
            prompt_name: "query", "passage", or None for the side of the task's name, else "query";
                or one an item.

        Raises:
            InputError: a name is unknown, task and prompt_name name different sides, or there are
                not as many as items.
        """
        named = _one_each("task", task, known_tasks, num_items)
        found = {name: _known_task(name, known_tasks) for name in dict.fromkeys(named)}
        if isinstance(task, str) and not num_items:
            _known_task(task, known_tasks)
        prompts = _one_each("prompt_name", prompt_name, tuple(PROMPTS), num_items)
        for prompt in dict.fromkeys((prompt_name,) if isinstance(prompt_name, str) else prompts):
            if prompt is not None and prompt not in PROMPTS:
                raise InputError(f"prompt_name is {prompt!r}; known are {list(PROMPTS)}")
        sides = {
            pair: choose_prompt(*found[pair[0]], pair[1]) or "query"
            for pair in dict.fromkeys(zip(named, prompts, strict=True))
        }
        tasks = tuple(found[name][0] for name in named)
        prefixes = (
            PROMPTS["query" if task in SYMMETRIC_TASKS else sides[pair]]
            for task, pair in zip(tasks, zip(named, prompts, strict=True), strict=True)
        )
        return replace(self, tasks=tasks, prefixes=tuple(prefixes))

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
    single: bool = True,
    multi: bool = False,
    output_dtype: str = "float32",
) -> Request:
    """Return the options of a call, with what was left out filled in.

    Args:
        known_tasks: that may be named.
        model: whose limits and defaults hold.
        num_items: how many items the call has.
        task, prompt_name: of all items, or one an item; as in `Request.of_items`.
        truncate_dim: leading dimensions of single vectors, 0 for all; None for the checkpoint's own
            default.
        max_length: of a text in tokens; None for the model's limit.
        max_pixels: of an image; None for the model's limit.
        batch_size: checked, and without any effect.
        single, multi: which vectors are wanted.
        output_dtype: one of `OUTPUT_DTYPES`.

    Raises:
        InputError: an option is unknown or out of range; the message lists what is allowed.
    """
    if task is None:
        raise InputError(
            f"no task was given; pass task= or set embedder.task to one of {list(known_tasks)}"
        )
    if not single and not multi:
        raise InputError("return_single and return_multivector are both False; ask for one")
    dim = check_dim("truncate_dim", truncate_dim, model.decoder.hidden_size)
    length = MAX_TOKENS if max_length is None else check_count("max_length", max_length)
    pixels = model.image.max_pixels if max_pixels is None else check_count("max_pixels", max_pixels)
    if pixels < model.image.min_pixels:
        raise InputError(
            f"max_pixels is {pixels}, less than the model's min_pixels of {model.image.min_pixels}"
        )
    check_count("batch_size", batch_size)
    request = Request(
        tasks=(),
        prefixes=(),
        heads=Heads(single, multi, dim or model.default_dim),
        output_dtype=check_output_dtype(output_dtype),
        max_length=min(length, model.max_tokens),
        max_pixels=pixels,
    )
    return request.of_items(known_tasks, num_items, task, prompt_name)


Name = TypeVar("Name", str, str | None)


def _one_each(
    option: str, value: Name | Sequence[Name], known: Sequence[str], num_items: int
) -> tuple[Name, ...]:
    """Return a name for each item: the one given for all, or the list given."""
    if value is None or isinstance(value, str):
        return (value,) * num_items
    if not isinstance(value, Sequence | np.ndarray):
        raise InputError(f"{option} is {value!r}; known are {list(known)}")
    if len(value) != num_items:
        raise InputError(
            f"{option} has {len(value)} names for {num_items} items; give one for each"
        )
    return tuple(value)


def _known_task(name: object, known: Sequence[str]) -> tuple[str, Prompt | None]:
    found = split_task(name, known) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"task is {name!r}; known are {list(known)}")
    return found


def check_dim(name: str, value: object, whole: int) -> int | None:
    """Return the leading dimensions that an option called `name` keeps; None if it is not given.

    Every number of them makes vectors, normalised again; those that the model was trained for, its
    `matryoshka_dims`, lose least.

    Args:
        name: as the caller knows it.
        value: of the option; 0 means all.
        whole: size of the vectors.

    Raises:
        InputError: there are not as many, or it is no whole number.
    """
    if value is None:
        return None
    if not _is_whole(value) or not 0 <= value <= whole:
        raise InputError(f"{name} is {value!r}; give 1 to {whole}, or 0 for all")
    return int(value) or whole


def check_count(name: str, value: object) -> int:
    """Return the number of an option called `name`; numpy's whole numbers are as good as Python's.

    Raises:
        InputError: it is no whole number of at least 1.
    """
    if not _is_whole(value) or value < 1:
        raise InputError(f"{name} is {value!r}; give a whole number of at least 1")
    return int(value)


def check_tasks(tasks: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of adapters to load, each once; one may be given bare.

    Raises:
        InputError: one is unknown, or there is none.
    """
    named = (tasks,) if isinstance(tasks, str) else tasks
    if not isinstance(named, Iterable):
        raise InputError(f"tasks is {tasks!r}; give a list of names, of {list(known)}")
    listed = list(named)
    unknown = [task for task in listed if task not in known]
    if unknown or not listed:
        raise InputError(f"tasks {unknown or '[]'} are not in the bundle; it has {list(known)}")
    return tuple(dict.fromkeys(listed))


def check_threads(value: object) -> int:
    """Return a number of threads; far more than processors are spent on waiting for each other.

    Raises:
        InputError: it is no whole number of at least 1, or far more than there are processors.
    """
    count = check_count("threads", value)
    most = max(MOST_THREADS, 4 * num_processors())
    if count > most:
        raise InputError(
            f"threads is {count}; give at most {most}, for {num_processors()} processors are here"
        )
    return count


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
