"""Describes the server's model, from the manifest and the settings."""

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

#: What clients are often set to; every server answers to it.
PUBLISHED_NAME = "jina-embeddings-v4"
#: The checkpoint that comes with the package, as a bundle's manifest names its source.
BUILT_IN = "nano"
BUILT_IN_NOTE = (
    "nano is a small checkpoint for trying things out, not jina-embeddings-v4: it knows short "
    "English texts about software and simple drawings, and cannot search scanned pages"
)


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
    name = settings.model_name or manifest.source.id.rpartition("/")[2]
    names = dict.fromkeys((name, *settings.model_aliases, PUBLISHED_NAME))
    prefixed = [f"jinaai/{known}" for known in names if "/" not in known]
    aliases = [known for known in dict.fromkeys((*names, *prefixed)) if known != name]
    return ModelInfo(
        name=name,
        aliases=tuple(aliases),
        source=manifest.source.id,
        revision=manifest.source.revision,
        license=manifest.license,
        note=BUILT_IN_NOTE if manifest.source.id == BUILT_IN else None,
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
