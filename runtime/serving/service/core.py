"""Opens what computes vectors: engine, runner, preprocessor; checked before anything is served."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import Engine, EngineOptions
from trine.runtime.engines.native.packed_file import packed_path
from trine.runtime.engines.opening import open_engine
from trine.runtime.engines.select import AUTO, listed_entry, read_host, select_engine
from trine.runtime.errors import InputError
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.encoder import Encoder
from trine.runtime.inference.runner import Runner
from trine.runtime.inference.self_test import SelfTest
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.scheduler.engine_meter import EngineBatch, metered
from trine.runtime.serving.scheduler.first_speed import time_batches
from trine.runtime.serving.service.tokenization import ServingTokenizer

__all__ = ["Core", "chosen_engine", "chosen_tasks", "open_core"]


@dataclass(frozen=True, slots=True)
class Core:
    """What computes vectors.

    Attributes:
        engine: whose runs are reported.
        runner: of that engine.
        preprocessor: of items into sequences.
        tokenizer: that the preprocessor uses.
        timed: batches that were run and timed when the engine was opened.
    """

    engine: Engine
    runner: Runner
    preprocessor: Preprocessor
    tokenizer: ServingTokenizer
    timed: tuple[EngineBatch, ...]


def chosen_engine(bundle: Bundle, settings: ServerSettings) -> tuple[EngineEntry, ServerSettings]:
    """Return the engine to run, and the settings with what `trine tune` found for it filled in.

    Raises:
        BundleError: the bundle has none of that name.
        InputError: it cannot share its weights with other workers, as they are asked to.
    """
    host = read_host(bundle, settings.device)
    selection = select_engine(bundle, settings.engine, host, settings.quality)
    entry, tuned = selection.entry, selection.tuned
    if entry.runner == "native" and _shares_weights(settings):
        graphs = {entry.decoders[task] for task in chosen_tasks(entry, settings)} | {entry.vision}
        if not all(packed_path(bundle, graph).is_file() for graph in graphs):
            listed = listed_entry(bundle, entry)
            if settings.engine != AUTO or "cpu" not in listed.devices:
                raise InputError(
                    f"engine {entry.name} would pack its weights in the memory of each process, "
                    f"and {settings.workers} workers are to share theirs; run `trine tune` on the "
                    "bundle, which writes them packed, or add --worker-weights own"
                )
            entry, tuned = listed, None
    found = BatchLimits().tokens if tuned is None else tuned.batch_tokens
    # Threads were tuned for one process; several workers share the processors.
    threads = None if tuned is None or settings.workers > 1 else tuned.threads
    return entry, dataclasses.replace(
        settings,
        batch_tokens=settings.batch_tokens or found,
        threads=settings.threads or threads,
    )


def _shares_weights(settings: ServerSettings) -> bool:
    return settings.workers > 1 and settings.worker_weights == "shared"


def chosen_tasks(entry: EngineEntry, settings: ServerSettings) -> tuple[str, ...]:
    """Return the tasks to load.

    Raises:
        InputError: one is not in the bundle.
    """
    unknown = [task for task in settings.tasks if task not in entry.decoders]
    if unknown:
        raise InputError(f"tasks {unknown} are not in the bundle; it has {list(entry.decoders)}")
    return tuple(dict.fromkeys(settings.tasks)) or tuple(entry.decoders)


def open_core(
    bundle: Bundle,
    entry: EngineEntry,
    settings: ServerSettings,
    report: Callable[[EngineBatch], None],
) -> Core:
    """Return the core of one engine, after its golden texts and image came out right.

    Both are embedded here, which also reads every weight, so that no request waits for either.

    Args:
        bundle: to serve.
        entry: of the engine.
        settings: of threads, tasks and budgets.
        report: called after each run of the engine.

    Raises:
        EngineError: the engine cannot run here, or failed its self-test.
        DependencyError: its package is not installed.
    """
    options = EngineOptions(
        threads=settings.threads,
        tasks=chosen_tasks(entry, settings),
        share_weights=_shares_weights(settings),
        spin=settings.spin,
        device=settings.device,
    )
    engine = open_engine(bundle, entry, options)
    tokens = settings.batch_tokens or BatchLimits().tokens
    limits = BatchLimits(tokens=tokens, patches=settings.batch_patches)
    tested: list[EngineBatch] = []
    encoder = Encoder(bundle, metered(engine, tested.append), limits)
    self_test = SelfTest(bundle, entry, encoder, enabled=True)
    self_test.require("text")
    self_test.require("image")
    model = bundle.manifest.model
    watched = metered(engine, report)
    table = EmbeddingTable(bundle.path(EMBEDDING_NAME), model.decoder)
    tokenizer = ServingTokenizer(bundle.path(TOKENIZER_NAME))
    # The texts' first batches read the weights; the image's vision tower is timed as it comes.
    seen = [run for run in tested if run.graph == "vision"][-1:]
    return Core(
        watched,
        Runner(model, watched, table, limits),
        Preprocessor(model, tokenizer),
        tokenizer,
        (*seen, *time_batches(Runner(model, engine, table, limits))),
    )
