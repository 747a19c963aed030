"""Opens what computes vectors: engine, pipeline, preprocessor; checked before anything is served."""

from collections.abc import Callable
from dataclasses import dataclass

from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import Engine, EngineOptions
from trine.runtime.engines.choice import resolve_engine
from trine.runtime.engines.native.packed_file import packed_path
from trine.runtime.engines.opening import open_engine
from trine.runtime.errors import InputError
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.encoder import Encoder
from trine.runtime.inference.runner import BatchLimits, Pipeline
from trine.runtime.inference.self_test import SelfTest
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.scheduler.engine_meter import EngineBatch, metered
from trine.runtime.serving.service.tokenization import ServingTokenizer

__all__ = ["Core", "chosen_entry", "chosen_tasks", "open_core"]


@dataclass(frozen=True, slots=True)
class Core:
    """What computes vectors.

    Attributes:
        engine: whose runs are reported.
        pipeline: of that engine.
        preprocessor: of items into sequences.
        tokenizer: that the preprocessor uses.
    """

    engine: Engine
    pipeline: Pipeline
    preprocessor: Preprocessor
    tokenizer: ServingTokenizer


def chosen_entry(bundle: Bundle, settings: ServerSettings) -> EngineEntry:
    """Return the engine to run.

    Raises:
        BundleError: the bundle has none of that name.
        InputError: it cannot share its weights with other workers, as they are asked to.
    """
    entry = resolve_engine(bundle, settings.engine, settings.device)
    if entry.runner != "native" or not _shares_weights(settings):
        return entry
    graphs = {entry.decoders[task] for task in chosen_tasks(entry, settings)} | {entry.vision}
    if all(packed_path(bundle, graph).is_file() for graph in graphs):
        return entry
    if settings.engine != "auto":
        raise InputError(
            f"engine {entry.name} would pack its weights in the memory of each process, and "
            f"{settings.workers} workers are to share theirs; run `trine tune` on the bundle, "
            "which writes them packed, or add --worker-weights own"
        )
    return bundle.first_cpu_engine()


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
    limits = BatchLimits(tokens=settings.batch_tokens, patches=settings.batch_patches)
    self_test = SelfTest(bundle, entry, Encoder(bundle, engine, limits), enabled=True)
    self_test.require("text")
    self_test.require("image")
    model = bundle.manifest.model
    watched = metered(engine, report)
    table = EmbeddingTable(bundle.path(EMBEDDING_NAME), model.decoder)
    tokenizer = ServingTokenizer(bundle.path(TOKENIZER_NAME))
    return Core(
        watched,
        Pipeline(model, watched, table, limits),
        Preprocessor(model, tokenizer),
        tokenizer,
    )
