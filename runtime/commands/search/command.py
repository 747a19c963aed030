"""`trine search DATASET QUERY`: the rows of a dataset folder that suit a query best."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trine.runtime.bulk.search import Dataset, Hit
    from trine.runtime.embedder import Embedder

__all__ = ["register", "run"]

#: Characters of a text that a terminal's line shows.
SHOWN = 100


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `search` to the program's commands."""
    parser = subparsers.add_parser(
        "search",
        help="search a dataset folder",
        description="Embed a query and score every row of a dataset folder of `trine embed` with "
        "it: by cosine, or by MaxSim where the dataset has multi-vectors. The result is exact.",
    )
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="a folder of `trine embed`")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="a text")
    parser.add_argument("--image", metavar="FILE", help="an image to search with")
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        type=Path,
        help="that embedded the dataset (default: where it was then)",
    )
    parser.add_argument("--task", help="the adapter (default: the dataset's)")
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="rows (default: 10)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print an object a row")
    output.add_argument(
        "--html", metavar="FILE", type=Path, help="write a page, with images and PDF pages drawn"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, best first, or write the page."""
    from trine.runtime.bulk.search import is_finished, open_dataset, search_dataset
    from trine.runtime.commands.search.excerpts import excerpt
    from trine.runtime.commands.search.page import write_page

    if (arguments.query is None) == (arguments.image is None):
        raise InputError("give a text to search for, or --image FILE, and not both")
    dataset = open_dataset(arguments.dataset)
    if not is_finished(arguments.dataset):
        print(
            f"{arguments.dataset}: its job is not finished; {dataset.num_rows} rows are searched",
            file=sys.stderr,
        )
    embedder = _load(arguments, dataset)
    hits = search_dataset(dataset, _query(arguments, dataset, embedder), arguments.top_k)
    if arguments.html is not None:
        asked = arguments.image if arguments.query is None else arguments.query
        write_page(arguments.html, asked, dataset, hits)
        print(f"{len(hits)} of {dataset.num_rows} rows in {arguments.html}", file=sys.stderr)
        return 0
    for rank, hit in enumerate(hits, 1):
        print(_json_line(hit) if arguments.json else _text_line(rank, hit, excerpt(hit)))
    return 0


def _load(arguments: argparse.Namespace, dataset: "Dataset") -> "Embedder":
    from trine.runtime.bundle.bundle import MANIFEST_NAME, file_sha256
    from trine.runtime.embedder import Embedder

    folder = arguments.bundle or dataset.bundle_path
    if folder is None:
        raise InputError(
            f"{arguments.dataset} does not say which bundle embedded it; name it with --bundle"
        )
    task = arguments.task or dataset.task
    if not task:
        raise InputError("the rows of the dataset named their own tasks; name one with --task")
    embedder = Embedder.load(folder, tasks=[task])
    embedder.task = task
    found = file_sha256(embedder.bundle.path(MANIFEST_NAME))
    if found != dataset.bundle_sha256:
        raise InputError(
            f"{folder} is not the bundle that embedded {arguments.dataset} (SHA-256 of its "
            f"manifest {found[:12]}…, not {dataset.bundle_sha256[:12]}…); name that one with "
            "--bundle, or embed the dataset anew"
        )
    return embedder


def _query(
    arguments: argparse.Namespace, dataset: "Dataset", embedder: "Embedder"
) -> "NDArray[np.float32]":
    from trine.runtime.inputs import ImageText

    item = arguments.query if arguments.image is None else ImageText((arguments.image,))
    found = embedder.encode(
        [item],
        prompt_name="query",
        truncate_dim=None if dataset.multi else dataset.dim,
        return_single=not dataset.multi,
        return_multivector=dataset.multi,
    )
    vectors = found.multi if found.single is None else found.single
    assert vectors is not None  # one of the two was asked for
    query: NDArray[np.float32] = vectors[0]
    return query


def _json_line(hit: "Hit") -> str:
    content = {
        "score": round(hit.score, 6),
        "id": hit.id,
        "source": hit.source,
        "row": hit.row,
        **hit.columns,
    }
    return json.dumps(content, ensure_ascii=False, default=str)


def _text_line(rank: int, hit: "Hit", text: str | None) -> str:
    shown = " ".join((text or "").split())
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
    place = f"{hit.source}:{hit.row}"
    name = place if hit.id == place else f"{hit.id}  {place}"
    return f"{rank:3}  {hit.score:.4f}  {name}" + (f"  {shown}" if shown else "")
