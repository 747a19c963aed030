"""`trine sample-checkpoint DIR`: write a random checkpoint in the published layout."""

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

from trine.export.sample.checkpoint import Progress, sample_size, write_sample_checkpoint
from trine.export.sample.spec import HARD_TRAITS, Dtype, KeySpelling, SampleSpec, changed_spec
from trine.runtime.commands.progress import is_terminal

__all__ = ["register", "run"]

SIZES = {"tiny": SampleSpec.tiny, "slice": SampleSpec.slice, "full": SampleSpec.full}
#: (field of SampleSpec, flag, what it is) of the options that take one whole number.
NUMBERS = (
    ("seed", "--seed", "of the random weights"),
    ("rank", "--rank", "of the LoRA adapters"),
    ("alpha", "--alpha", "of the LoRA adapters; they are scaled by alpha / rank"),
    ("hidden_size", "--hidden-size", "of the decoder"),
    ("num_layers", "--num-layers", "of the decoder"),
    ("num_heads", "--num-heads", "of the decoder"),
    ("num_kv_heads", "--num-kv-heads", "of the decoder; divides the heads"),
    ("intermediate_size", "--intermediate-size", "width of the decoder's MLP"),
    ("vision_depth", "--vision-depth", "blocks of the vision tower"),
    ("vision_hidden_size", "--vision-hidden-size", "of the vision tower"),
    ("vision_heads", "--vision-heads", "of the vision tower"),
    ("vision_intermediate_size", "--vision-intermediate-size", "width of the vision tower's MLP"),
    ("window_size", "--window-size", "side of an attention window in pixels"),
    ("vocab_size", "--vocab-size", "rows of the token embedding"),
    ("first_special_id", "--first-special-id", "id of <|endoftext|>; the others follow"),
    ("projector_dim", "--projector-dim", "of the multi-vectors"),
    ("num_shards", "--shards", "safetensors files of the base model"),
)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sample-checkpoint` to the program's commands."""
    parser = subparsers.add_parser(
        "sample-checkpoint",
        help="write a random checkpoint in the published layout",
        description="Write a seeded random checkpoint in the published layout: to try an export, "
        "or to measure speed and memory without the real weights. Its vectors mean nothing. "
        "Numbers that follow from a changed one (rotary sections, Matryoshka sizes, "
        "full-attention blocks, special ids) are changed with it unless given.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a new or empty folder")
    parser.add_argument(
        "--size",
        choices=sorted(SIZES),
        default="tiny",
        help="tiny: 0.5 MB; slice: the published widths with 4 layers, 1.5 GB; "
        "full: every published number, 7.9 GB (default: tiny)",
    )
    parser.add_argument("--key-spelling", choices=get_args(KeySpelling), help="of tensor names")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="of the stored weights")
    for field, flag, help_text in NUMBERS:
        parser.add_argument(flag, dest=field, type=int, metavar="N", help=help_text)
    parser.add_argument(
        "--mrope-section",
        type=_numbers,
        metavar="T,H,W",
        help="rotary pairs that follow time, height and width",
    )
    parser.add_argument(
        "--full-attention-blocks",
        type=_numbers,
        metavar="I,J",
        help="vision blocks without windows, counted from 0; '' for none",
    )
    parser.add_argument("--tasks", type=_names, metavar="A,B", help="names of the adapters")
    parser.add_argument(
        "--hard",
        type=_traits,
        metavar="A,B",
        help="make it hard to quantise, as trained models are: large channels of the MLPs "
        "(swiglu), of the hidden states (residual), of a few image patches (patch-spike) and of "
        "the first token (first-token), large key biases (k-bias); or all",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint, print one JSON line about it and return 0.

    Raises:
        InputError: the numbers do not make a model, or the folder cannot be written.
    """
    fields = [field for field, _, _ in NUMBERS]
    fields += ["key_spelling", "dtype", "mrope_section", "full_attention_blocks", "tasks", "hard"]
    given = {field: getattr(arguments, field) for field in fields}
    spec = changed_spec(
        SIZES[arguments.size](),
        {field: value for field, value in given.items() if value is not None},
    )
    progress = _percent_line() if is_terminal(sys.stderr) else None
    write_sample_checkpoint(spec, arguments.directory, progress=progress)
    size = sample_size(spec)
    summary = {
        "checkpoint": str(arguments.directory),
        "parameters": size.num_values,
        "size_bytes": size.num_bytes,
    }
    print(json.dumps(summary))
    return 0


def _percent_line() -> Progress:
    """Return a callback that rewrites one line on stderr whenever another percent is done."""
    shown = -1

    def show(done_bytes: int, total_bytes: int) -> None:
        nonlocal shown
        percent = 100 * done_bytes // total_bytes
        if percent != shown:
            shown = percent
            end = "\n" if percent == 100 else ""
            print(
                f"\rwriting weights: {done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB "
                f"({percent} %)",
                end=end,
                file=sys.stderr,
                flush=True,
            )

    return show


def _numbers(text: str) -> tuple[int, ...]:
    """Return the comma-separated whole numbers of `text`; none of an empty one."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as cause:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers such as 1,3"
        ) from cause


def _names(text: str) -> tuple[str, ...]:
    """Return the comma-separated names of `text`."""
    return tuple(part.strip() for part in text.split(","))


def _traits(text: str) -> tuple[str, ...]:
    """Return the comma-separated traits of `text`, or all of them."""
    return HARD_TRAITS if text == "all" else _names(text)
