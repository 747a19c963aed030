"""Runs the examples of docs/ecosystem.md where their libraries are."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "ecosystem.md"


@pytest.fixture
def run_examples(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[str], bool], int], None]:
    """Runs the page's Python blocks that are chosen, so many, in a folder with its bundle."""
    (tmp_path / "nano.bundle").symlink_to(nano_bundle)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)

    def run(chosen: Callable[[str], bool], count: int) -> None:
        ours = [block for block in blocks if chosen(block)]
        assert len(ours) == count
        for block in ours:
            for library in re.findall(r"^from (\w+)", block, re.M):
                pytest.importorskip(library)
            exec(compile(block, str(PAGE), "exec"), {"__name__": "example"})

    return run
