"""Bundles are fetched from the Hub by id, and pushed there."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.fake_hub import FakeHub, commit_of, serving
from trine.runtime.bundle.bundle import MANIFEST_NAME, MODULE_FILES, open_bundle
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError, DependencyError
from trine.runtime.hub import locate_bundle, parse_hub_id

constants = pytest.importorskip("huggingface_hub.constants")
hf_api = pytest.importorskip("huggingface_hub.hf_api")
ID = "acme/nano-bundle"
MADE = commit_of(ID, "main")


@pytest.fixture
def hub(nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with one bundle, and an empty cache."""
    fake = FakeHub()
    fake.add(ID, nano_bundle)
    with serving(fake):
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + TEMPLATE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hf_api.api, "endpoint", fake.url)
        monkeypatch.setenv("HF_TOKEN", "hf_any")
        yield fake


#: Of the client's addresses of files.
TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@v1.0", ("org/name", "v1.0")),
        ("org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        ("name", None),
        ("/org/name", None),
        ("a/b/c", None),
        ("./org/name", None),
    ],
)
def test_ids_of_the_hub_have_two_parts(name: str, found: tuple[str, str | None] | None) -> None:
    assert parse_hub_id(name) == found


def test_vectors_are_those_of_the_folder(hub: FakeHub, nano_bundle: Path) -> None:
    found = Embedder.load(ID).encode_text(["a rose"], "retrieval")
    want = Embedder.load(nano_bundle).encode_text(["a rose"], "retrieval")
    np.testing.assert_array_equal(found, want)
    before = len(hub.fetched())
    hub.requests.clear()
    Embedder.load(ID)
    assert hub.fetched() == set()
    assert before == len(open_bundle(nano_bundle).manifest.files) + 1


def test_only_what_a_task_needs_is_fetched(hub: FakeHub) -> None:
    embedder = Embedder.load(ID, tasks=["code"])
    assert embedder.tasks == ("code",)
    fetched = {name for name in hub.fetched() if "decoder" in name}
    assert fetched
    assert all("decoder-code" in name for name in fetched)
    # The rest comes when it is asked for.
    assert "retrieval" in Embedder.load(ID).tasks


def test_a_revision_is_taken_by_argument_or_in_the_name(
    hub: FakeHub, nano_bundle: Path, tmp_path: Path
) -> None:
    hub.add(ID, nano_bundle, "v1")
    for folder in (locate_bundle(f"{ID}@v1"), locate_bundle(ID, revision="v1")):
        assert folder.name == commit_of(ID, "v1")
    with pytest.raises(BundleError, match=r"revision v9\)"):
        locate_bundle(ID, revision="v9")
    with pytest.raises(BundleError, match="is a folder"):
        locate_bundle(nano_bundle, revision="v1")


def test_a_folder_of_that_name_goes_first(
    hub: FakeHub, nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    (tmp_path / ID).symlink_to(nano_bundle)
    assert locate_bundle(ID) == Path(ID)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme/nothing", "check the name and the network"),
        ("acme/private", "log in if the repository is private"),
        ("acme/checkpoint", "make a bundle of a checkpoint with `trine export`"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    hub: FakeHub, tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private.add("acme/private")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}", encoding="utf-8")
    hub.add("acme/checkpoint", tmp_path / "checkpoint")
    with pytest.raises(BundleError, match=rf"^{name} \(revision main\) is no folder here") as found:
        Embedder.load(name)
    assert words in str(found.value)
    assert main(["embed", name, "--text", "a", "--task", "code"]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_the_manifests_is_refused_and_not_kept(hub: FakeHub) -> None:
    good = hub.repositories[ID, "main"]["heads.safetensors"]
    hub.repositories[ID, "main"]["heads.safetensors"] = good[:-1] + b"x"
    with pytest.raises(BundleError, match=r"heads.safetensors has another SHA-256"):
        Embedder.load(ID)
    hub.repositories[ID, "main"]["heads.safetensors"] = good
    assert Embedder.load(ID).tasks


def test_a_download_that_breaks_is_continued(hub: FakeHub) -> None:
    hub.cut.add("embedding.safetensors")
    assert Embedder.load(ID).tasks
    asked = [p for m, p in hub.requests if m == "GET" and p.endswith("embedding.safetensors")]
    assert len(asked) == 2


def test_offline_the_cache_is_all_there_is(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    Embedder.load(ID, tasks=["code"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert Embedder.load(ID, tasks=["code"]).tasks == ("code",)
    assert hub.requests == []
    with pytest.raises(BundleError, match="acme/nano-bundle"):
        Embedder.load(ID)


def test_without_the_client_its_extra_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"acme/nano-bundle, which is no folder .*trine\[hub"):
        Embedder.load(ID)


def test_info_fetches_no_weights(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", ID]) == 0
    assert "engine ort-fp32" in capsys.readouterr().out
    assert hub.fetched() == {MANIFEST_NAME, "parity.json"}


def test_a_bundle_is_pushed_with_its_card_and_loads(
    hub: FakeHub, nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(nano_bundle), "acme/pushed"]) == 0
    assert commit_of("acme/pushed", "main") in capsys.readouterr().out
    files = hub.repositories["acme/pushed", "main"]
    beside = {MANIFEST_NAME, "README.md", *MODULE_FILES}
    assert set(files) == {*open_bundle(nano_bundle).manifest.files, *beside}
    card = files["README.md"].decode()
    assert 'Embedder.load("acme/pushed")' in card
    assert "| ort-fp32 | fp32 | merged | " in card
    assert "1.00000 |" in card
    assert Embedder.load("acme/pushed").encode_text(["a"], "code").shape == (1, 256)


def test_a_changed_bundle_is_not_pushed(
    hub: FakeHub, nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-rL", str(nano_bundle), str(copy)], check=True)
    data = (copy / "heads.safetensors").read_bytes()
    (copy / "heads.safetensors").write_bytes(data[:-1] + b"x")
    assert main(["push", str(copy), "acme/pushed"]) == 2
    assert "its SHA-256 is not the manifest's" in capsys.readouterr().err
    assert main(["push", str(nano_bundle), "pushed"]) == 2
    assert "give ORG/NAME" in capsys.readouterr().err
    assert ("acme/pushed", "main") not in hub.repositories


def test_a_process_reads_the_hubs_own_variables(hub: FakeHub, tmp_path: Path) -> None:
    """As people set them: in the environment, before the process starts."""
    environment = dict(os.environ, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"))
    command = [sys.executable, "-m", "trine", "embed", ID, "--text", "a", "--task", "code"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["embedding"]) == 256
    logging.getLogger(__name__).debug(done.stderr)
