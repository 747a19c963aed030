"""The Python blocks of docs/clients.md, run as they stand but for the server's address."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
#: Of blocks that make no single vectors of "a rose": mteb asks for them later, and pages get
#: multi-vectors.
WITHOUT_SIDES = ("from mteb", "return_multivector")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def package_of(block: str) -> str:
    """Return the first package of a client that a block imports."""
    found = re.findall(r"^(?:import|from) ([a-z0-9_]+)", block, re.M)
    return next(name for name in found if name not in ("pathlib", "base64", "numpy", "httpx"))


@pytest.fixture
def in_folder_of_page(image_path, tmp_path, monkeypatch):
    """Makes the current folder one with `page.png` in it."""
    shutil.copy(image_path, tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_folder_of_page")
@pytest.mark.parametrize("block", BLOCKS, ids=[package_of(block) for block in BLOCKS])
def test_block_embeds_both_sides(block, server, monkeypatch, expected, close):
    pytest.importorskip(package_of(block))
    address = server.removeprefix("http://")
    block = block.replace("127.0.0.1:8000", address)
    # Snippets that set a constant of a module must not leave it to other tests.
    for module, name in re.findall(r"^import (\S+) as jina\n(?:.*\n)*?jina\.(\w+) =", block, re.M):
        monkeypatch.setattr(pytest.importorskip(module), name, "")
    names = {"__name__": "snippet"}
    exec(compile(block, str(PAGE), "exec"), names)
    if any(mark in block for mark in WITHOUT_SIDES):
        return
    query, passage = names["query"], names["passage"]
    close([query], expected(["a rose"], "query", dim=len(query)))
    close([passage], expected(["a rose"], "passage", dim=len(passage)))
    # Ten times the tolerance of `close`: one side cannot pass for the other.
    assert np.abs(np.subtract(query, passage)).max() > 2e-4


def test_there_is_a_block_for_every_client():
    assert len(BLOCKS) > 15
