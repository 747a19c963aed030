"""`trine eval BUNDLE --pairs FILE`: how well each engine's vectors find what they should."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.commands.engine_options import ENGINE_HELP, add_device
from trine.runtime.commands.progress import ProgressBar

if TYPE_CHECKING:
    from trine.runtime.bundle.bundle import Bundle
    from trine.runtime.commands.eval.evaluation import EngineResult, EvaluationOptions, VectorResult
    from trine.runtime.commands.eval.pair_files import PairSet

__all__ = ["ResultRow", "register", "result_rows", "run", "table_rows"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `eval` to the program's commands."""
    parser = subparsers.add_parser(
        "eval",
        help="measure how well a bundle's vectors find what they should",
        description="Embed the queries and candidates of pairs, rank the candidates for each "
        "query, and print recall@1, @5 and @10, MRR@10 and nDCG@10, for each engine, kind and "
        "type of vectors. Candidates of equal score rank in the order of the file.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`, or a Hub id"
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        type=Path,
        required=True,
        help=".jsonl with an object a line: query, and passage (a text) or image (a path relative "
        "to the file); lines may share queries and candidates",
    )
    parser.add_argument("--task", default="retrieval", help="the adapter (default: %(default)s)")
    parser.add_argument(
        "--dim",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="leading dimensions to keep of single vectors, 0 for all; may be repeated",
    )
    parser.add_argument(
        "--multi-vector",
        action="store_true",
        help="a vector a token and MaxSim instead of single vectors; with --dim, both",
    )
    parser.add_argument(
        "--output-dtype",
        metavar="TYPE",
        action="append",
        default=[],
        help="float32, float16, int8, binary or ubinary: the type both sides are stored and ranked "
        "in; may be repeated, differences are to the first (default: float32)",
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        action="append",
        default=[],
        help=f"{ENGINE_HELP}; may be repeated (default: the one that auto stands for, then the "
        "others of the bundle that the processor can run)",
    )
    add_device(parser)
    parser.add_argument("--limit", metavar="N", type=int, help="pairs to read, the first ones")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of one run (default: one a processor)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the engines one after the other and print the table, or the JSON, to stdout."""
    import json

    from trine.runtime.bundle.bundle import open_bundle
    from trine.runtime.commands.eval.pair_files import read_pairs
    from trine.runtime.commands.info.bundle_summary import table_lines
    from trine.runtime.hub import locate_engines

    arguments.bundle = locate_engines(arguments.bundle, arguments.engine or (), arguments.device)
    bundle = open_bundle(arguments.bundle)
    engines = arguments.engine or _engines_here(bundle, arguments.device)
    options = _options(arguments, bundle, engines)
    pairs = read_pairs(arguments.pairs, arguments.limit)
    runs = {
        engine: _run_engine(arguments, engine, pairs, options) for engine in dict.fromkeys(engines)
    }
    rows = result_rows(runs, len(pairs.candidates))
    if arguments.json:
        results = [dataclasses.asdict(row) for row in rows]
        content = {"task": options.task, "pairs": pairs.num_pairs, "results": results}
        print(json.dumps(content, indent=2))
        return 0
    for line in table_lines(table_rows(rows), indent=""):
        print(line)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One engine with vectors of one kind and type; an object of the JSON, its fields these.

    Attributes:
        engine: its name.
        vectors: "single" or "multi".
        dim: size of single vectors; None for multi-vectors.
        output_dtype: of the vectors.
        queries, candidates: how many there are.
        recall_at_1, recall_at_5, recall_at_10, mrr_at_10, ndcg_at_10: as in `RankMetrics`.
        ndcg_at_10_difference: to the first engine and output type with vectors of this kind and
            dim; None for that one itself.
    """

    engine: str
    vectors: str
    dim: int | None
    output_dtype: str
    queries: int
    candidates: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mrr_at_10: float
    ndcg_at_10: float
    ndcg_at_10_difference: float | None


def result_rows(runs: "Mapping[str, EngineResult]", num_candidates: int) -> list[ResultRow]:
    """Return a row for each engine, kind and type of vectors.

    Args:
        runs: by engine's name, all with the same options.
        num_candidates: that were searched.
    """
    rows = []
    first: dict[int | None, VectorResult] = {}
    for engine, found in runs.items():
        for result in found.results:
            metrics = result.metrics
            base = first.setdefault(result.dim, result)
            difference = metrics.ndcg_at_10 - base.metrics.ndcg_at_10
            rows.append(
                ResultRow(
                    engine=engine,
                    vectors="multi" if result.dim is None else "single",
                    dim=result.dim,
                    output_dtype=result.output_dtype,
                    queries=metrics.num_queries,
                    candidates=num_candidates,
                    recall_at_1=metrics.recall_at_1,
                    recall_at_5=metrics.recall_at_5,
                    recall_at_10=metrics.recall_at_10,
                    mrr_at_10=metrics.mrr_at_10,
                    ndcg_at_10=metrics.ndcg_at_10,
                    ndcg_at_10_difference=None if result is base else difference,
                )
            )
    return rows


def table_rows(rows: Sequence[ResultRow]) -> list[tuple[str, ...]]:
    """Return the cells of the table, its heading first.

    Types only if there are others than float32, differences only of several engines or types.
    """
    typed = any(row.output_dtype != "float32" for row in rows)
    heading = ["engine", "vectors", *(["type"] if typed else []), "queries", "candidates"]
    heading += ["recall@1", "recall@5", "recall@10", "MRR@10", "nDCG@10"]
    several = any(row.ndcg_at_10_difference is not None for row in rows)
    table = [(*heading, "difference") if several else tuple(heading)]
    for row in rows:
        vectors = row.vectors if row.dim is None else f"{row.vectors} {row.dim}"
        measures = (row.recall_at_1, row.recall_at_5, row.recall_at_10, row.mrr_at_10)
        cells = [row.engine, vectors, *([row.output_dtype] if typed else [])]
        cells += [str(row.queries), str(row.candidates)]
        cells += [f"{measure:.4f}" for measure in (*measures, row.ndcg_at_10)]
        if several:
            difference = row.ndcg_at_10_difference
            cells.append("first" if difference is None else f"{difference:+.4f}")
        table.append(tuple(cells))
    return table


def _options(
    arguments: argparse.Namespace, bundle: "Bundle", engines: Sequence[str]
) -> "EvaluationOptions":
    """Return what to measure, all checked before a model is loaded."""
    from trine.runtime.commands.eval.evaluation import EvaluationOptions, check_evaluation
    from trine.runtime.engines.select import read_host, select_engine
    from trine.runtime.outputs import check_output_dtype
    from trine.runtime.request import check_dim
    from trine.runtime.scoring.quantisation import bundle_ranges

    whole = bundle.manifest.model.decoder.hidden_size
    asked = (check_dim("--dim", dim, whole) for dim in arguments.dim)
    dims = tuple(dict.fromkeys(dim for dim in asked if dim is not None))
    dtypes = [check_output_dtype(name) for name in arguments.output_dtype or ["float32"]]
    options = EvaluationOptions(
        task=arguments.task,
        dims=dims,
        single=bool(dims) or not arguments.multi_vector,
        multi=arguments.multi_vector,
        output_dtypes=tuple(dict.fromkeys(dtypes)),
    )
    ranges, host = bundle_ranges(bundle), read_host(bundle, arguments.device)
    for engine in engines:
        known = tuple(select_engine(bundle, engine, host).entry.decoders)
        check_evaluation(options, known, bundle.manifest.model, ranges)
    return options


def _engines_here(bundle: "Bundle", device: int) -> list[str]:
    """Return what "auto" runs, then the other engines of the processor as it would run them."""
    from trine.runtime.engines.select import AUTO, best_way, read_host, select_engine

    host = read_host(bundle, device)
    auto = select_engine(bundle, AUTO, host).entry
    listed = (entry for entry in bundle.manifest.engines if "cpu" in entry.devices)
    return list(dict.fromkeys([auto.name, *(best_way(entry, host).name for entry in listed)]))


def _run_engine(
    arguments: argparse.Namespace, engine: str, pairs: "PairSet", options: "EvaluationOptions"
) -> "EngineResult":
    """Load an engine, evaluate it and say on stderr how long that took. It is let go at return."""
    from trine.runtime.commands.eval.evaluation import evaluate_pairs, num_steps
    from trine.runtime.embedder import Embedder

    embedder = Embedder.load(
        arguments.bundle,
        engine=engine,
        device=arguments.device,
        tasks=[options.task],
        threads=arguments.threads,
    )
    bar = ProgressBar(sys.stderr, engine, num_steps(pairs, options), "steps")
    found = evaluate_pairs(embedder, pairs, options, bar.advance)
    bar.finish()
    num_items = len(pairs.queries) + len(pairs.candidates)
    kind = "texts" if pairs.texts_only else "items"
    print(
        f"{engine}: {num_items} {kind} embedded in {found.encode_s:.1f} s "
        f"({num_items / found.encode_s:.1f} {kind}/s), ranked in {found.score_s:.1f} s",
        file=sys.stderr,
    )
    if found.num_truncated:
        limit = embedder.bundle.manifest.model.max_tokens
        print(f"{engine}: {found.num_truncated} texts were cut to {limit} tokens", file=sys.stderr)
    return found
