"""Names of tasks and models choose an adapter and a prompt."""

import pytest

from trine.runtime.serving.api.requests.tasks import (
    TaskChoice,
    choose_task,
    model_names,
    task_names,
)
from trine.runtime.serving.service.calls import ModelInfo, ServiceError


@pytest.mark.parametrize(
    ("names", "task", "prompt"),
    [
        ({}, "retrieval", "query"),
        ({"model": "v4"}, "retrieval", "query"),
        ({"model": "jinaai/jina-embeddings-v4"}, "retrieval", "query"),
        ({"task": "retrieval.passage"}, "retrieval", "passage"),
        ({"task": "code.query"}, "code", "query"),
        ({"task": "code"}, "code", "query"),
        ({"task": "code", "role": "document"}, "code", "passage"),
        ({"task": "code.query", "role": "document"}, "code", "query"),
        ({"task": "text-matching"}, "text-matching", "query"),
        ({"role": "passage"}, "retrieval", "passage"),
        ({"role": "search_document"}, "retrieval", "passage"),
        ({"role": "code.passage"}, "code", "passage"),
        ({"model": "v4:retrieval.passage"}, "retrieval", "passage"),
        ({"model": "jinaai/jina-embeddings-v4:code.passage"}, "code", "passage"),
        ({"model": "v4:code.passage", "task": "retrieval.query"}, "retrieval", "query"),
    ],
)
def test_names_choose_adapter_and_prompt(
    info: ModelInfo, names: dict[str, str], task: str, prompt: str
) -> None:
    assert choose_task(info, **names) == TaskChoice(task, prompt)


@pytest.mark.parametrize(
    ("names", "status", "param"),
    [
        ({"model": "text-embedding-3-small"}, 404, "model"),
        ({"model": "v4:"}, 422, "model"),
        ({"model": "v4:separation"}, 422, "model"),
        ({"task": "classification"}, 422, "task"),
        ({"task": "retrieval.answer"}, 422, "task"),
        ({"task": ""}, 422, "task"),
        ({"role": "reranking"}, 422, "input_type"),
        ({"role": "reranking", "task": "code"}, 422, "input_type"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(
    info: ModelInfo, names: dict[str, str], status: int, param: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        choose_task(info, **names)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert "jina" in caught.value.message or "query" in caught.value.message


def test_every_listed_name_is_accepted(info: ModelInfo) -> None:
    for name in model_names(info):
        choose_task(info, model=name)
    for name in task_names(info.tasks):
        assert choose_task(info, task=name).task == name.partition(".")[0]
