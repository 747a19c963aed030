"""Splits names of tasks into an adapter and a side: `retrieval.query` is `retrieval`, "query".

A task is named with its side, as the published API has it, or bare. Python, the command line and
the server read names alike.
"""

from collections.abc import Collection, Iterable
from typing import cast, get_args

from trine.runtime.errors import InputError
from trine.runtime.inputs import Prompt

__all__ = ["SYMMETRIC_TASKS", "choose_prompt", "split_task", "task_names"]

#: Tasks without sides: both are embedded with the query's prefix.
SYMMETRIC_TASKS = ("text-matching",)
SIDE_MARK = "."


def task_names(tasks: Iterable[str]) -> list[str]:
    """Return the names that calls may use for these adapters, sides included."""
    return [
        name
        for task in tasks
        for name in (
            (task,)
            if task in SYMMETRIC_TASKS
            else tuple(f"{task}{SIDE_MARK}{side}" for side in get_args(Prompt))
        )
    ]


def split_task(name: str, known: Collection[str]) -> tuple[str, Prompt | None] | None:
    """Return the adapter that a task's name stands for, and the side it names, if it names one.

    Args:
        name: as a caller wrote it.
        known: names of the adapters.

    Returns:
        None if there is no such adapter.
    """
    # The whole name first: an adapter that was loaded later may have a dot in its own.
    if name in known:
        return name, None
    task, mark, side = name.rpartition(SIDE_MARK)
    if mark and task in known and side in get_args(Prompt):
        return task, cast(Prompt, side)
    return None


def choose_prompt(
    task: str, side: Prompt | None, prompt: str | None, option: str = "prompt_name"
) -> str | None:
    """Return the prompt that a task's name and the option for prompts name together; None for none.

    Args:
        task: the adapter.
        side: that the task's name had, of `split_task`.
        prompt: the option's value.
        option: its name, for the message.

    Raises:
        InputError: they name different ones.
    """
    if side is not None and prompt is not None and side != prompt:
        raise InputError(
            f"task {task + SIDE_MARK + side!r} names the side {side!r}, but {option} is "
            f"{prompt!r}; give one of the two"
        )
    return side or prompt
