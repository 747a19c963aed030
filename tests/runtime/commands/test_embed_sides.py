"""`trine embed`: tasks that are named with their side, as over HTTP."""

import json
from pathlib import Path

import numpy as np
import pytest

from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder

TEXT = "how tall is the tower"


@pytest.mark.parametrize("side", ["query", "passage"])
def test_a_task_names_its_side(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    lines = tmp_path / "lines.jsonl"
    other = {"query": "passage", "passage": "query"}[side]
    rows = [{"text": TEXT}, {"text": TEXT, "task": f"retrieval.{other}"}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["embed", str(nano_bundle), str(lines), "--task", f"retrieval.{side}"]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    found = [json.loads(line)["embedding"] for line in out.splitlines()]
    embedder = Embedder.load(nano_bundle, self_test=False)
    want = [embedder.encode_text(TEXT, "retrieval", prompt_name=name) for name in (side, other)]
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        (
            {"text": "a"},
            ("--task", "retrieval.query", "--prompt", "passage"),
            "task 'retrieval.query' names the side 'query', but --prompt is 'passage'",
        ),
        (
            {"text": "a", "task": "code.passage", "prompt": "query"},
            ("--task", "retrieval"),
            "lines.jsonl:1: task 'code.passage' names the side 'passage', but prompt is 'query'",
        ),
        ({"text": "a", "task": "code.document"}, (), "task is 'code.document'; the bundle has"),
    ],
)
def test_sides_that_contradict_are_refused(
    nano_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, str],
    options: tuple[str, ...],
    sentence: str,
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(row) + "\n")
    assert main(["embed", str(nano_bundle), str(lines), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
