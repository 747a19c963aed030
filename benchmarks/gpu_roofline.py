"""Prints what GPUs could do at best with a bundle's model, by their data sheets.

    python benchmarks/gpu_roofline.py BUNDLE

Prints operations and bytes of each stage of the model, and the best rates that the sheets allow:
predictions, not measurements. Needs no GPU.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from roofline.devices import DEVICES, PRECISIONS, RatePrecision
from roofline.prediction import stage_bytes
from roofline.tables import (
    Workload,
    image_workload,
    rate_rows,
    rate_value,
    stage_rows,
    text_workload,
)

from trine.runtime.bundle.bundle import TOKENIZER_NAME, Bundle, open_bundle
from trine.runtime.commands.info.bundle_summary import table_lines
from trine.runtime.errors import InputError, TrineError
from trine.runtime.preprocessing.tokenizer import TextTokenizer


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables or the JSON; return 0, or 2 where the options cannot be used.

    Args:
        words: as on the command line; None for the process's own.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.add_argument(
        "--tokens", type=int, default=512, metavar="N", help="of a text (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="texts in a run (default: %(default)s)"
    )
    parser.add_argument(
        "--image",
        default="1240x1754",
        metavar="WxH",
        help="size of a page in pixels, before the model's own resizing (default: %(default)s, "
        "A4 at 150 dots an inch)",
    )
    parser.add_argument(
        "--pages", type=int, default=8, metavar="N", help="pages in a run (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=["fp32", "tf32", "bf16", "fp16", "fp8", "int8"],
        help="of the linear layers; may be repeated (default: all)",
    )
    parser.add_argument(
        "--multi-vector", action="store_true", help="a vector a token instead of one an item"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    try:
        _print_tables(parser.parse_args(words))
    except TrineError as error:
        print(f"gpu_roofline.py: {error}", file=sys.stderr)
        return 2
    return 0


def _print_tables(arguments: argparse.Namespace) -> None:
    for name in ("tokens", "batch", "pages"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} is {getattr(arguments, name)}; give at least 1")
    workloads = _workloads(open_bundle(arguments.bundle), arguments)
    precisions = _precisions(arguments.precision)
    if arguments.json:
        print(json.dumps(_json_object(workloads, precisions), indent=2, ensure_ascii=False))
        return
    print(
        "Predictions from data sheets, not measurements; docs/roofline.md says how they are made."
    )
    for workload in workloads:
        print(f"\n{workload.label}; {precisions[0]} bytes")
        for line in table_lines(list(stage_rows(workload, precisions[0]))):
            print(line)
        print()
        for line in table_lines(list(rate_rows(workload, precisions=precisions))):
            print(line)


def _precisions(names: list[str] | None) -> tuple[RatePrecision, ...]:
    """Return the precisions asked for, in the tables' order; fp16 has the rates of bf16."""

    if names is None:
        return PRECISIONS
    wanted = {"bf16" if name == "fp16" else name for name in names}
    return tuple(precision for precision in PRECISIONS if precision in wanted)


def _workloads(bundle: Bundle, arguments: argparse.Namespace) -> tuple[Workload, Workload]:

    found = re.fullmatch(r"(\d+)[x×](\d+)", arguments.image)
    if found is None or not int(found[1]) or not int(found[2]):
        raise InputError(f"--image is {arguments.image!r}; give WIDTHxHEIGHT, such as 1240x1754")
    model = bundle.manifest.model
    scaffold = TextTokenizer(bundle.path(TOKENIZER_NAME)).scaffold
    # The vision span's two markers belong to the image prompt as well.
    around = len(scaffold.head) + len(scaffold.text) + len(scaffold.tail) + 2
    merged = bundle.manifest.engines[0].adapters == "merged"
    rank = 0 if merged else bundle.manifest.adapters.max_rank
    size = (int(found[2]), int(found[1]))
    return (
        text_workload(model, arguments.batch, arguments.tokens, rank, arguments.multi_vector),
        image_workload(model, arguments.pages, size, around, rank, arguments.multi_vector),
    )


def _json_object(
    workloads: tuple[Workload, ...], precisions: tuple[RatePrecision, ...]
) -> dict[str, object]:

    return {
        "note": "predictions from data sheets, not measurements",
        "workloads": [
            {
                "label": workload.label,
                "unit": workload.unit,
                "count": workload.count,
                "stages": [
                    {**asdict(s), "bytes": {p: stage_bytes(s, p) for p in precisions}}
                    for s in workload.stages
                ],
                "predicted_per_second": {
                    device.name: {p: rate_value(workload, device, p) for p in precisions}
                    for device in DEVICES
                },
            }
            for workload in workloads
        ],
        "devices": [asdict(device) for device in DEVICES],
    }


if __name__ == "__main__":
    sys.exit(main())
