"""Names of tasks and models in requests, and what they choose: an adapter and a prompt.

A task is named with its role, as the published API has it (`retrieval.query`), or bare
(`retrieval`). Where a client cannot send a task, the model's name may carry it behind a colon:
`jina-embeddings-v4:retrieval.passage`.
"""

from dataclasses import dataclass

from trine.runtime.inputs import Prompt
from trine.runtime.serving.service.calls import ModelInfo, ServiceError
from trine.runtime.task_names import split_task, task_names

__all__ = ["TaskChoice", "choose_task", "model_names"]

#: Separates the task from the model's name.
ALIAS_MARK = ":"
#: What clients call the two roles; the prompt of each.
ROLES: dict[str, Prompt] = {
    "query": "query",
    "passage": "passage",
    "document": "passage",
    "search_query": "query",
    "search_document": "passage",
}
#: What clients call the purposes that have no sides, and the task that serves them.
SYMMETRIC = ("classification", "clustering")
SYMMETRIC_TASK = "text-matching"


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """An adapter and whose prefix texts get."""

    task: str
    prompt: Prompt


def model_names(info: ModelInfo) -> list[str]:
    """Return the names that requests may use for the model: its own, then one a task."""
    own = [info.name, *info.aliases]
    return own + [f"{info.name}{ALIAS_MARK}{task}" for task in task_names(info.tasks)]


def choose_task(
    info: ModelInfo,
    *,
    model: str | None = None,
    task: str | None = None,
    role: str | None = None,
    role_field: str = "input_type",
) -> TaskChoice:
    """Return what a request's names choose; what they leave open is the server's default.

    A task in the body goes before one in the model's name, and the role in a task's name before
    `role`.

    Args:
        info: of the model.
        model: the request's `model`; None for any.
        task: the request's `task`.
        role: the request's `input_type` or `prompt_name`: one of `ROLES` or `SYMMETRIC`, or a
            task's name.
        role_field: that `role` came in, for messages.

    Raises:
        ServiceError: 404 the model is not served here; 422 the task or the role is unknown.
    """
    suffix = None if model is None else _task_of_model(info, model)
    named: str | None = None
    prompt: Prompt | None = None
    if suffix is not None:
        named, prompt = _split(info, suffix, "model")
    if task is not None:
        named, prompt = _split(info, task, "task")
    if role is not None and prompt is None:
        if role in ROLES:
            prompt = ROLES[role]
        elif role in SYMMETRIC and SYMMETRIC_TASK in info.tasks:
            named = named or SYMMETRIC_TASK
        elif named is None:
            named, prompt = _split(info, role, role_field)
        else:
            raise ServiceError(
                422,
                "unknown_role",
                f"{role_field} is {role!r}; known are {sorted((*ROLES, *SYMMETRIC))}",
                param=role_field,
            )
    return TaskChoice(named or info.default_task, prompt or info.default_prompt)


def _task_of_model(info: ModelInfo, model: str) -> str | None:
    """Return the task that a model's name carries, or None if it is the bare name."""
    known = {info.name, info.source, *info.aliases}
    known |= {f"jinaai/{name}" for name in known}
    if model in known:
        return None
    name, mark, task = model.rpartition(ALIAS_MARK)
    if mark and name in known:
        return task
    raise ServiceError(
        404,
        "model_not_found",
        f"the model {model!r} is not served here; it is called {info.name!r}, or with a task "
        f"{info.name + ALIAS_MARK + task_names(info.tasks)[0]!r}"
        if info.tasks
        else f"the model {model!r} is not served here; it is called {info.name!r}",
        param="model",
    )


def _split(info: ModelInfo, name: str, field: str) -> tuple[str, Prompt | None]:
    """Return the adapter and the prompt that a task's name stands for."""
    found = split_task(name, info.tasks)
    if found is None:
        raise ServiceError(
            422,
            "unknown_task",
            f"{field} names the task {name!r}, which this model does not have; known are "
            f"{task_names(info.tasks)}",
            param=field,
        )
    return found
