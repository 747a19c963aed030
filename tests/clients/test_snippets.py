"""The Python blocks of docs/clients.md, run as they stand but for the server's address."""

import re
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def package_of(block: str) -> str:
    """Return the first package of a client that a block imports."""
    found = re.findall(r"^(?:import|from) ([a-z0-9_]+)", block, re.M)
    return next(name for name in found if name not in ("pathlib", "base64", "numpy", "httpx"))


@pytest.mark.parametrize("block", BLOCKS, ids=[package_of(block) for block in BLOCKS])
def test_block_runs(block, server, image_path, tmp_path, monkeypatch):
    pytest.importorskip(package_of(block))
    shutil.copy(image_path, tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    address = server.removeprefix("http://")
    block = block.replace("127.0.0.1:8000", address)
    # Snippets that set a constant of a module must not leave it to other tests.
    for module, name in re.findall(r"^import (\S+) as jina\n(?:.*\n)*?jina\.(\w+) =", block, re.M):
        monkeypatch.setattr(pytest.importorskip(module), name, "")
    exec(compile(block, str(PAGE), "exec"), {"__name__": "snippet"})


def test_there_is_a_block_for_every_client():
    assert len(BLOCKS) > 15
