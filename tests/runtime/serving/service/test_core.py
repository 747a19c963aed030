import dataclasses
from pathlib import Path
from typing import cast

import pytest

from trine.runtime.bundle.bundle import Bundle as OpenedBundle
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.native.packed_file import packed_path
from trine.runtime.engines.opening import open_engine
from trine.runtime.errors import InputError
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.core import chosen_entry


class Bundle:
    """A bundle whose "auto" is an engine of native kernels beside a listed one."""

    def __init__(self, bundle_folder: Path, folder: Path) -> None:
        self.folder = folder
        bundle = open_bundle(bundle_folder)
        self.manifest = bundle.manifest
        listed = bundle.manifest.engines[0]
        self.native = dataclasses.replace(listed, name="native-int8", runner="native")

    def engine(self, name: str) -> object:
        return self.native if name == "native-int8" else self.manifest.engines[0]

    def tuned_engine(self, tuned: object) -> object:
        return self.native

    def first_cpu_engine(self) -> object:
        return self.manifest.engines[0]


def test_workers_that_share_weights_run_an_engine_that_can(
    golden_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle(golden_bundle, tmp_path)

    def chosen(**settings: object) -> str:
        found = chosen_entry(bundle, ServerSettings(bundle=golden_bundle, **settings))  # type: ignore[arg-type]
        return found.name

    assert chosen() == "native-int8"
    assert chosen(workers=2) == "ort-fp32"
    assert chosen(workers=2, worker_weights="own") == "native-int8"
    assert chosen(workers=2, engine="ort-fp32") == "ort-fp32"
    with pytest.raises(InputError, match="--worker-weights own"):
        chosen(workers=2, engine="native-int8")
    for graph in {*bundle.native.decoders.values(), bundle.native.vision}:
        path = packed_path(cast(OpenedBundle, bundle), graph)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert chosen(workers=2) == "native-int8"


def test_shared_weights_stay_in_their_files(golden_bundle: Path) -> None:
    bundle = open_bundle(golden_bundle)
    entry = bundle.engine("ort-fp32")
    options = EngineOptions(threads=1, tasks=("code",))
    shared = open_engine(bundle, entry, dataclasses.replace(options, share_weights=True))
    assert open_engine(bundle, entry, options).weights_in_memory
    assert not shared.weights_in_memory
    assert "memory-mapped" in shared.description
