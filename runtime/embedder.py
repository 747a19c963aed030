"""The public face: load a bundle, turn texts and images into vectors."""

import logging
from collections.abc import Generator, Iterable, Sequence
from os import PathLike
from pathlib import Path

from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.golden import Deviation, Modality
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import Engine, EngineOptions
from trine.runtime.engines.opening import open_engine
from trine.runtime.engines.select import Quality, read_host, select_engine
from trine.runtime.errors import InputError
from trine.runtime.hub import locate_bundle
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.encoder import Encoder
from trine.runtime.inference.self_test import SelfTest, measure_deviations
from trine.runtime.inference.streaming import StreamDefaults, stream_embeddings
from trine.runtime.inputs import ImageText, Item, StreamItem
from trine.runtime.opening import LoadedAdapter, Opening, reopen
from trine.runtime.outputs import Embedding, Embeddings, OutputDtype
from trine.runtime.preprocessing.item_lists import check_ordered, listed_items
from trine.runtime.published_methods import PublishedMethods
from trine.runtime.request import Request, check_request, check_tasks, check_threads
from trine.runtime.scoring.quantisation import (
    Int8Ranges,
    bundle_ranges,
    check_output,
    quantise_embeddings,
)
from trine.runtime.task_names import split_task

__all__ = ["Embedder"]

logger = logging.getLogger(__name__)


class Embedder(PublishedMethods):
    """Turns texts and images into the vectors of jina-embeddings-v4.

    Make one with `Embedder.load`. It may be called from several threads at once; its methods hold
    no state but `task`, the default for calls that name none, and `output_ranges`, for int8.
    """

    def __init__(
        self,
        bundle: Bundle,
        entry: EngineEntry,
        engine: Engine,
        limits: BatchLimits,
        self_test: bool,
    ) -> None:
        self.bundle = bundle
        self.entry = entry
        #: Used where a call names no task; None makes the task required.
        self.task: str | None = None
        #: Used by output_dtype "int8": the bundle's, unless others are put in their place.
        self.output_ranges: Int8Ranges = bundle_ranges(bundle)
        encoder = Encoder(bundle, engine, limits)
        self._parts: tuple[Encoder, SelfTest] | None = (
            encoder,
            SelfTest(bundle, entry, encoder, self_test),
        )
        self._opening: Opening | None = None

    @classmethod
    def load(
        cls,
        bundle: str | PathLike[str],
        *,
        revision: str | None = None,
        engine: str = "auto",
        quality: Quality | None = None,
        device: int = 0,
        tasks: Sequence[str] | None = None,
        threads: int | None = None,
        limits: BatchLimits | None = None,
        self_test: bool = True,
    ) -> "Embedder":
        """Return an embedder for the bundle in a folder, or on the Hub.

        Args:
            bundle: the folder that `trine export` wrote; or the Hub id of a bundle, `org/name` or
                `org/name@revision`, of which the files that the engine needs are fetched.
            revision: branch, tag or commit on the Hub; None for the main branch.
            engine: name of one of its engines, such as "ort-fp32"; a way to run one on a GPU,
                "tensorrt", "tensorrt_rtx" or "ort_cuda", or of a certain one,
                "trt-int8:tensorrt"; "auto" for one that a GPU of this machine can run, else what
                `trine tune` found, else the first that the processor can, by the native kernels
                where they are the faster. What was taken is in `description`.
            quality: that "auto" keeps by the fastest engine that does: "lossless" (float32),
                "high" (16 bits too), "fast" (any); None for the bundle's first precision.
            device: ordinal of the GPU, for engines that run on one.
            tasks: whose decoders to load; None for all. Loading fewer takes less memory.
            threads: for one run on the processor; None for what `trine tune` found, else one a
                processor.
            limits: how much one run may hold; None for what `trine tune` found, else a default that
                suits CPUs.
            self_test: embed the bundle's golden inputs and refuse an engine that is off. Texts are
                embedded here, unless the weights stay in their memory-mapped files, which would
                all have to be read: then before the first call's vectors are returned. The image
                is embedded before the first image's vectors are. `check` does it at once.

        Raises:
            BundleError: the bundle is missing, damaged or newer than this code.
            EngineError: the engine cannot run here, or failed its self-test.
            InputError: a task or number is not among what the bundle has.
            DependencyError: the engine's package is not installed.
        """
        folder = locate_bundle(
            bundle, revision=revision, engine=engine, quality=quality, device=device, tasks=tasks
        )
        opened = open_bundle(folder)
        chosen = select_engine(opened, engine, read_host(opened, device), quality)
        if chosen.tuned is not None:
            threads = chosen.tuned.threads if threads is None else threads
            limits = limits or BatchLimits(tokens=chosen.tuned.batch_tokens)
        embedder = cls.open(
            opened,
            chosen.entry,
            device=device,
            tasks=tasks,
            threads=threads,
            limits=limits,
            self_test=self_test,
        )
        if embedder._encoder.engine.weights_in_memory:
            embedder._self_test.require("text")
        return embedder

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        entry: EngineEntry,
        *,
        device: int = 0,
        tasks: Sequence[str] | None = None,
        threads: int | None = None,
        limits: BatchLimits | None = None,
        self_test: bool = False,
    ) -> "Embedder":
        """Return an embedder for one engine of an opened bundle.

        Arguments and errors as in `load`, but that a self-test waits for the first call.
        """
        known = tuple(entry.decoders)
        wanted = known if tasks is None else check_tasks(tasks, known)
        if threads is not None:
            threads = check_threads(threads)
        if limits is not None and not isinstance(limits, BatchLimits):
            raise InputError(
                f"limits is {limits!r}; give a BatchLimits, such as BatchLimits(tokens=512)"
            )
        if not isinstance(device, int) or device < 0:
            raise InputError(f"device is {device!r}; GPUs are numbered from 0")
        options = EngineOptions(threads=threads, tasks=wanted, device=device)
        runner = open_engine(bundle, entry, options)
        embedder = cls(bundle, entry, runner, limits or BatchLimits(), self_test)
        embedder._opening = Opening(
            bundle.folder.resolve(), entry, options, limits or BatchLimits(), self_test
        )
        logger.info("loaded %s: %s", bundle.folder, runner.description)
        return embedder

    def close(self) -> None:
        """Let go of the engine, its weights and threads, once calls under way have ended.

        Later calls raise InputError; closing again does nothing.
        """
        self._parts = None

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as what opens the bundle again; `copy.deepcopy` opens it anew as well.

        The other side reads the bundle, and the adapters that were loaded since, from the same
        paths. It tests itself anew.

        Raises:
            TypeError: it is closed, or was not made by `load` or `open`.
        """
        if self._parts is None or self._opening is None:
            raise TypeError(
                "an Embedder that is closed, or has no bundle of its own, cannot be pickled or "
                "copied; call Embedder.load on the other side"
            )
        return reopen, (type(self), self._opening, self.task, self.output_ranges)

    @property
    def _encoder(self) -> Encoder:
        return self._open_parts()[0]

    @property
    def _self_test(self) -> SelfTest:
        return self._open_parts()[1]

    def _open_parts(self) -> tuple[Encoder, SelfTest]:
        if self._parts is None:
            raise InputError("the embedder is closed; make another with Embedder.load")
        return self._parts

    @property
    def description(self) -> str:
        """One line on what runs, where, and in which precision."""
        return self._encoder.engine.description

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that calls may name now."""
        return self._encoder.engine.adapters.names

    def load_adapter(
        self, name: str, path: str | PathLike[str], *, task: str | None = None
    ) -> None:
        """Make one more LoRA adapter usable as task `name`, while other calls go on.

        An adapter of that name is replaced: calls under way finish with the old one.

        Args:
            name: what calls will pass as `task`.
            path: a PEFT folder with adapter_config.json and adapter_model.safetensors.
            task: which of the folder's adapters, where it holds several; None for its only one,
                else the one called `name`.

        Raises:
            CheckpointError: the files are damaged, or use a feature that is not supported.
            InputError: the engine has its adapters merged, the rank is larger than the bundle
                takes, or too many adapters are loaded.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"the adapter's name is {name!r}; give a str that is not empty")
        if not isinstance(path, str | PathLike):
            raise InputError(f"the adapter's path is {path!r}; give the path of a folder")
        adapters = self._encoder.engine.adapters
        staged = adapters.prepare(name, Path(path), task)
        # Only now: an adapter that stays, since this one cannot be read, goes on being tested.
        self._self_test.disown(name)
        adapters.commit(staged)
        self._note_adapter(name, LoadedAdapter(Path(path).resolve(), task))

    def unload_adapter(self, name: str, *, timeout_s: float | None = None) -> None:
        """Remove an adapter: new calls cannot name it, and this returns when no call uses it.

        Args:
            name: of the adapter.
            timeout_s: how long to wait for calls that use it; None for as long as it takes.

        Raises:
            InputError: no adapter has that name, the engine has its adapters merged, or calls still
                used it after `timeout_s`.
        """
        adapters = self._encoder.engine.adapters
        try:
            adapters.unload(name, timeout_s)
        finally:
            if name not in adapters.names:
                self._self_test.disown(name)
                self._note_adapter(name, None)

    def _note_adapter(self, name: str, loaded: LoadedAdapter | None) -> None:
        if self._opening is not None:
            self._opening = self._opening.with_adapter(name, loaded)

    def encode(
        self,
        items: Iterable[Item],
        task: str | Sequence[str] | None = None,
        *,
        prompt_name: str | Sequence[str] | None = None,
        truncate_dim: int | None = None,
        max_length: int = 32768,
        max_pixels: int | None = None,
        return_single: bool = True,
        return_multivector: bool = False,
        output_dtype: OutputDtype = "float32",
    ) -> Embeddings:
        """Return the vectors of mixed items, with token counts and what was truncated.

        Args:
            items: texts (`str`) and images with or without a text (`ImageText`), in any order.
            task: an adapter's name, or one for each item; None for `self.task`.
            prompt_name, truncate_dim, max_length: as in `encode_text`; `max_length` bounds the
                text of an item, not its images.
            max_pixels: as in `encode_image`.
            return_single: whether single vectors are wanted.
            return_multivector: whether multi-vectors are wanted; both may be.
            output_dtype: as in `encode_text`.

        Raises:
            InputError: an argument or item is not usable; the message says which item.
        """
        listed = listed_items(items)
        request = check_request(
            self.tasks,
            self.bundle.manifest.model,
            num_items=len(listed),
            task=self.task if task is None else task,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            max_length=max_length,
            max_pixels=max_pixels,
            single=return_single,
            multi=return_multivector,
            output_dtype=output_dtype,
        )
        return self._encode(listed, request)

    def encode_stream(
        self,
        items: Iterable[Item | StreamItem],
        task: str | None = None,
        *,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        max_length: int = 32768,
        max_pixels: int | None = None,
        return_single: bool = True,
        return_multivector: bool = False,
        output_dtype: OutputDtype = "float32",
    ) -> Generator[Embedding, None, None]:
        """Yield the vectors of items one by one, in order, as `encode` of all of them returns them.

        Made for more items than fit in memory: `items` is read as results are taken, by the thread
        that takes them, and never by more than about two windows (`BatchLimits.window_tokens`)
        ahead. Items are tokenised, decoded and resized on worker threads while the engine runs.
        Adapters are held from their first use until the end. Closing the generator, or an error,
        ends the workers.

        Args:
            items: texts and `ImageText`, or `StreamItem` where one has its own task or prompt.
            task: for items that name none; None for `self.task`.
            prompt_name: likewise; None for "query".
            truncate_dim, max_length, max_pixels, return_single, return_multivector, output_dtype:
                as in `encode`.

        Raises:
            InputError: an argument is not usable, here; or an item, when its turn comes: the
                message has its number, and all items before it have been yielded.
        """
        check_ordered("items", items, "an iterable of items")
        named = self.task if task is None else task
        tasks = [] if named is None else [named]
        request = check_request(
            self.tasks,
            self.bundle.manifest.model,
            num_items=len(tasks),
            task=tasks,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            max_length=max_length,
            max_pixels=max_pixels,
            single=return_single,
            multi=return_multivector,
            output_dtype=output_dtype,
        )
        check_output(request, self.output_ranges)
        # Bare, so that an item may name the other side.
        bare, side = (named and split_task(named, self.tasks)) or (named, None)
        defaults = StreamDefaults(request, bare, prompt_name or side)
        return stream_embeddings(
            items, defaults, self._encoder, self._self_test, self.output_ranges
        )

    def deviations(self, modality: Modality, num_texts: int | None = None) -> list[Deviation]:
        """Return how far this engine is from the bundle's golden vectors, for the loaded tasks.

        Args:
            modality: texts or the image.
            num_texts: how many of the golden texts to embed; None for all.
        """
        return measure_deviations(
            self.bundle, self._encoder, self._self_test.tasks, modality, num_texts
        )

    def check(self) -> None:
        """Run what is left of the self-test now, and with it read all weights into memory.

        Raises:
            EngineError: golden vectors come out further off than the bundle allows.
        """
        self._self_test.require("text")
        self._self_test.require("image")

    def _encode(self, items: Sequence[Item], request: Request) -> Embeddings:
        # One object for the whole call, whatever is put in its place meanwhile.
        ranges = self.output_ranges
        check_output(request, ranges)
        if items:
            self._self_test.require("text")
        if any(isinstance(item, ImageText) for item in items):
            self._self_test.require("image")
        found = self._encoder.encode(items, request)
        return quantise_embeddings(found, request.tasks, request.output_dtype, ranges)
