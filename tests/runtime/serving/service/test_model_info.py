"""Tests of what the server calls its model and says of it."""

from pathlib import Path

import pytest

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.serving.api.requests.tasks import choose_task
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.calls import ModelInfo
from trine.runtime.serving.service.model_info import describe_model

TASKS = ("retrieval", "text-matching", "code")


def described(folder: Path, name: str | None = None) -> ModelInfo:
    bundle = open_bundle(folder)
    settings = ServerSettings(bundle=folder, model_name=name)
    return describe_model(bundle, bundle.manifest.engines[0], settings, TASKS, {})


def test_the_built_in_checkpoint_says_what_it_is_not(nano_bundle: Path) -> None:
    info = described(nano_bundle)
    assert info.name == "nano"
    assert info.note is not None
    assert "not jina-embeddings-v4" in info.note


@pytest.mark.parametrize("name", ["jina-embeddings-v4", "jinaai/jina-embeddings-v4", "nano"])
def test_clients_that_send_the_published_name_are_served(nano_bundle: Path, name: str) -> None:
    info = described(nano_bundle)
    assert choose_task(info, model=name).task == "retrieval"
    assert choose_task(info, model=f"{name}:code.passage").task == "code"


def test_an_operators_name_goes_before_the_checkpoints(nano_bundle: Path) -> None:
    info = described(nano_bundle, "mine")
    assert info.name == "mine"
    assert choose_task(info, model="jina-embeddings-v4").prompt == "query"
