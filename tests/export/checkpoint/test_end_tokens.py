"""Checkpoints whose tokenizer adds tokens to every text."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, processors

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.embedder import Embedder


def add_end(checkpoint: Path, token: str) -> None:
    path = str(checkpoint / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {token}", special_tokens=[(token, tokenizer.token_to_id(token))]
    )
    tokenizer.save(path)


def test_an_end_token_is_exported_and_kept_at_run_time(checkpoint: Path, tmp_path: Path) -> None:
    add_end(checkpoint, "<|im_end|>")
    with (tmp_path / "talk").open("w") as talk:
        export_checkpoint(ExportOptions(source=str(checkpoint), bundle=tmp_path / "bundle"), talk)
    # Golden vectors are checked at load, so the reference saw the token as well.
    ended = Embedder.load(tmp_path / "bundle").encode(["a"], "retrieval", return_multivector=True)
    library = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert ended.num_tokens[0] == len(library.encode("Query: a"))


def test_an_end_token_that_marks_an_image_is_refused(
    checkpoint: Path, refuse: Callable[..., str]
) -> None:
    add_end(checkpoint, "<|vision_end|>")
    refuse(checkpoint, "tokenizer.json", "post_processor adds a token", "marks an image")
