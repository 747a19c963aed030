"""What the server says of its model, from the manifest and the settings."""

import importlib.metadata
from collections.abc import Mapping
from typing import cast

from trine.runtime.bundle.bundle import MANIFEST_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.errors import InputError
from trine.runtime.inputs import Prompt
from trine.runtime.serving.config.settings import DEFAULT_TASKS, ServerSettings
from trine.runtime.serving.service.calls import ModelInfo

__all__ = ["default_role", "describe_model"]


def default_role(settings: ServerSettings) -> tuple[str, Prompt]:
    """Return task and prompt of items that name none.

    Raises:
        InputError: the setting is none of the published names.
    """
    if settings.default_task not in DEFAULT_TASKS:
        raise InputError(
            f"default_task is {settings.default_task!r}; give one of {list(DEFAULT_TASKS)}"
        )
    task, _, prompt = settings.default_task.partition(".")
    return task, cast(Prompt, prompt or "query")


def describe_model(
    bundle: Bundle,
    entry: EngineEntry,
    settings: ServerSettings,
    tasks: tuple[str, ...],
    hashes: Mapping[str, str],
) -> ModelInfo:
    """Return the description of a bundle's model as it is served.

    Args:
        bundle: of the model.
        entry: of the engine.
        settings: of the server.
        tasks: adapters that calls may name now.
        hashes: by task, of those that are loaded here.
    """
    manifest = bundle.manifest
    model = manifest.model
    task, prompt = default_role(settings)
    names = (settings.model_name, *settings.model_aliases)
    aliases = dict.fromkeys((*names[1:], *(f"jinaai/{name}" for name in names if "/" not in name)))
    return ModelInfo(
        name=settings.model_name,
        aliases=tuple(aliases),
        source=manifest.source.id,
        revision=manifest.source.revision,
        license=manifest.license,
        version=importlib.metadata.version("trine"),
        created=int(bundle.path(MANIFEST_NAME).stat().st_mtime),
        tasks=tasks,
        default_task=task,
        default_prompt=prompt,
        dimensions=model.decoder.hidden_size,
        default_dimensions=model.default_dim,
        matryoshka_dimensions=tuple(sorted(model.matryoshka_dims)),
        multi_dimensions=model.projector_dim,
        max_tokens=min(settings.max_length, model.max_tokens),
        max_items=settings.max_items,
        max_pixels=settings.max_pixels or model.image.max_pixels,
        vocab_size=model.decoder.vocab_size,
        engine=entry.name,
        precision=entry.precision,
        adapters=entry.adapters,
        adapter_hashes=dict(hashes),
    )
