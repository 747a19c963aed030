"""Finding a checkpoint: built in, in a folder, or on the Hub (whose client is replaced here)."""

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from trine.export.checkpoint.source import read_license, resolve_source
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.errors import CheckpointError, DependencyError

Refuse = Callable[..., str]
COMMIT = "737fa5c46f0262ceba4a462ffa1c5bcf01da416f"


def test_nano_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (resolve_source("nano").folder / "config.json").is_file()
    assert resolve_source("./nano").folder == Path("nano")


def test_folder_is_named_by_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    found = resolve_source(".")
    assert (found.id, found.revision) == ("mine", None)


def test_revision_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"revision 'v1' was given for the folder .* Hub ids"):
        resolve_source(str(tmp_path), "v1")


@pytest.mark.parametrize("source", ["", "jina", "a/b/c", "https://example.org/a", "../up", "a b/c"])
def test_name_of_nothing(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither a folder nor a Hub id .*; give"):
        resolve_source(source)


def test_hub_id_is_downloaded_and_its_commit_recorded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def download(hub_id: str, **options: object) -> str:
        asked.append({"hub_id": hub_id, **options})
        return str(shutil.copytree(tiny_checkpoint, tmp_path / "snapshots" / COMMIT))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    options = ExportOptions(
        source="jinaai/jina-embeddings-v4",
        bundle=tmp_path / "bundle",
        revision="main",
        tasks=("code",),
        check=False,
    )
    assert export_checkpoint(options, io.StringIO()).source_id == "jinaai/jina-embeddings-v4"
    (call,) = asked
    assert call["hub_id"] == "jinaai/jina-embeddings-v4"
    assert call["revision"] == "main"
    patterns = call["allow_patterns"]
    assert isinstance(patterns, list)
    assert {"config.json", "*.safetensors", "*/adapter_config.json"} <= set(patterns)
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in patterns)
    source = open_bundle(tmp_path / "bundle").manifest.source
    assert (source.id, source.revision) == ("jinaai/jina-embeddings-v4", COMMIT)
    assert "model.safetensors" in source.sha256


@pytest.mark.parametrize(
    "error",
    [
        OSError("We couldn't connect to the Hub.\nCheck your connection"),
        ConnectionError("Name or service not known"),
        RuntimeError("401 Client Error. (Request ID: abc)\n\nRepository Not Found"),
        TimeoutError(),
    ],
)
def test_hub_that_cannot_be_reached(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(hub_id: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refuse(
        "nobody/nothing",
        "nobody/nothing (revision main): cannot be downloaded",
        (str(error) or "TimeoutError").splitlines()[0],
        "Check the name and the network",
    )


def test_hub_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DependencyError, match=r"'huggingface_hub' .* pip install 'trine\[export\]'"
    ):
        resolve_source("jinaai/jina-embeddings-v4")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("---\nlicense: cc-by-nc-4.0\ntags: [a]\n---\n# Title", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: 'qwen-research'\n---\n", "other / qwen-research"),
        ("---\ntags: [a]\n---\nlicense: not here\n", None),
        ("# Title\nlicense: not here\n", None),
        ("", None),
        ("---\nlicense: mit", "mit"),
    ],
)
def test_license_is_read_from_the_front_matter(tmp_path: Path, text: str, want: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_license(tmp_path) == want


def test_license_without_a_readable_readme(tmp_path: Path) -> None:
    assert read_license(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---")
    assert read_license(tmp_path) is None
