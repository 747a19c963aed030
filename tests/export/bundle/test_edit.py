"""Adding adapters to a bundle and removing them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from trine.export.bundle.edit import add_adapter, remove_adapter
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
NANO_ADAPTERS = ROOT / "export" / "nano" / "checkpoint" / "adapters"


@pytest.fixture
def bundle(nano_runtime_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with runtime adapters that a test may change."""
    return Path(shutil.copytree(nano_runtime_bundle, tmp_path / "nano"))


def test_an_added_adapter_is_used_and_hashes_hold(bundle: Path) -> None:
    add_adapter(bundle, "search", NANO_ADAPTERS, "retrieval")
    opened = open_bundle(bundle)
    assert opened.check_hashes() == []
    embedder = Embedder.load(bundle)
    assert embedder.tasks == ("retrieval", "text-matching", "code", "search")
    found = embedder.encode_text(["a web server"] * 2, ["search", "retrieval"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_removing_an_added_adapter_restores_the_bundle(bundle: Path) -> None:
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    add_adapter(bundle, "search", NANO_ADAPTERS, "retrieval")
    remove_adapter(bundle, "search")
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("retrieval", None, "already"),
        ("../up", "code", "letters"),
        ("mine", None, "has no adapter 'mine'"),
        ("mine", "absent", "has no adapter 'absent'"),
    ],
)
def test_what_cannot_be_added_is_refused_and_leaves_no_file(
    bundle: Path, name: str, task: str | None, words: str
) -> None:
    before = sorted(bundle.rglob("*"))
    with pytest.raises(InputError, match=words):
        add_adapter(bundle, name, NANO_ADAPTERS, task)
    assert sorted(bundle.rglob("*")) == before


def test_a_name_with_golden_vectors_is_not_given_to_another_adapter(bundle: Path) -> None:
    remove_adapter(bundle, "code")
    with pytest.raises(InputError, match="exported with another adapter 'code'"):
        add_adapter(bundle, "code", NANO_ADAPTERS, "retrieval")
    assert Embedder.load(bundle).tasks == ("retrieval", "text-matching")


def test_a_merged_bundle_takes_no_adapters(nano_bundle: Path) -> None:
    with pytest.raises(InputError, match="--adapters runtime"):
        add_adapter(nano_bundle, "search", NANO_ADAPTERS, "retrieval")


def test_the_last_adapter_stays(bundle: Path) -> None:
    remove_adapter(bundle, "code")
    remove_adapter(bundle, "text-matching")
    with pytest.raises(InputError, match="only adapter"):
        remove_adapter(bundle, "retrieval")
    assert Embedder.load(bundle).tasks == ("retrieval",)


def test_the_command_lists_adds_and_removes(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", "add", str(bundle), "mine", str(NANO_ADAPTERS), "--task", "code"]) == 0
    assert main(["adapters", "list", str(bundle)]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["retrieval", "text-matching", "code", "mine"]
    assert main(["adapters", "remove", str(bundle), "mine"]) == 0
    assert main(["adapters", "remove", str(bundle), "mine"]) == 2
    assert "has no adapter 'mine'" in capsys.readouterr().err
