"""The boundary between HTTP dialects and the embedding service: calls, results, errors.

A dialect turns a request's body into an `EmbedCall`, awaits `Embedding.embed` and turns the
`EmbedResult` into a body. It never sees the queue, the tokenizer or the engine; the service never
sees HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trine.runtime.inputs import ImageText, Prompt
from trine.runtime.serving.service.item_fields import INPUT, ItemFields, ItemPlace, place_of

__all__ = [
    "CallContext",
    "EmbedCall",
    "EmbedItem",
    "EmbedResult",
    "Embedding",
    "ImageSpan",
    "ItemContent",
    "ModelInfo",
    "ReadyState",
    "ServiceError",
    "Timings",
    "TokenizedText",
    "Truncation",
]

#: What one item is: a text; token ids of the model's own vocabulary, taken as they are, without
#: any prefix; or images with or without a text. Images are the bytes of image files, already
#: fetched and checked against the limits on bytes and pixels.
ItemContent: TypeAlias = str | tuple[int, ...] | ImageText

#: Which end of a text that is too long is cut; "none" refuses it (422).
Truncation: TypeAlias = Literal["end", "start", "none"]

#: "loading": the socket is open, weights are not read yet. "draining": finishing what was accepted.
#: "failed": loading did not succeed; it stays so.
ReadyState: TypeAlias = Literal["loading", "ready", "draining", "failed"]


class ServiceError(Exception):
    """A request that is answered with an error; each dialect has its own body for it.

    Args:
        status: of HTTP: 400 body or field not understood, 401 no or wrong key, 403 key not
            allowed, 404 unknown model, adapter or path, 413 too large, 422 a field's value cannot
            be used, 429 too many requests or full queue, 499 the client left, 500 a fault of the
            server, 503 loading or draining, 504 the deadline passed.
        code: for programs, snake_case and stable, e.g. "queue_full", "invalid_api_key".
        message: for people: one sentence that says what was wrong and how to fix it.
        param: the body's field at fault, e.g. "dimensions", or None.
        index: the item at fault, counted from 0 in the request's order, or None.
        retry_after: seconds after which to try again, 1 to 120; for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        index: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.index = index
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class EmbedItem:
    """One thing to embed.

    Attributes:
        content: text, token ids, or images.
        task: an adapter's name, e.g. "retrieval"; not yet split names such as "retrieval.query".
        prompt: whose prefix a text gets. The service itself uses that of the query for
            "text-matching". Images without a text have none.
    """

    content: ItemContent
    task: str
    prompt: Prompt = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """One request to embed.

    Attributes:
        items: in the order of the request; may be empty.
        single: whether single vectors are wanted.
        multi: whether multi-vectors are wanted; both may be.
        dimensions: leading dimensions of single vectors to keep, from 1 to the vector's size; None
            for the checkpoint's default. (Clients' 0 for "all" becomes None in the dialect.)
        multi_dimensions: likewise of each multi-vector row; None for all.
        max_length: tokens kept of a text, prefix included; None for the server's limit.
        truncate: which end of a text longer than that is cut, or "none" to refuse it.
        normalize: False for single vectors that are plain means; multi-vectors always have rows of
            length 1. With `dimensions`, the cut vector is normalised again.
        late_chunking: all texts of a group become one sequence under one prompt prefix, and each
            text's vectors are pooled from its own tokens of it.
        late_groups: with `late_chunking`, sizes of consecutive groups of items, each group one
            document; empty for one document of all items.
        fields: of the request, that held the items; for errors.
    """

    items: tuple[EmbedItem, ...]
    single: bool = True
    multi: bool = False
    dimensions: int | None = None
    multi_dimensions: int | None = None
    max_length: int | None = None
    truncate: Truncation = "end"
    normalize: bool = True
    late_chunking: bool = False
    late_groups: tuple[int, ...] = ()
    fields: ItemFields = INPUT

    def place(self, index: int) -> ItemPlace:
        """Return where the request had the item of that number."""
        return place_of(self.fields, index)

    def with_items(self, items: tuple[EmbedItem, ...], fields: ItemFields) -> "EmbedCall":
        """Return the call with other items; `dataclasses.replace` takes three times as long."""
        return EmbedCall(
            items=items,
            single=self.single,
            multi=self.multi,
            dimensions=self.dimensions,
            multi_dimensions=self.multi_dimensions,
            max_length=self.max_length,
            truncate=self.truncate,
            normalize=self.normalize,
            late_chunking=self.late_chunking,
            late_groups=self.late_groups,
            fields=fields,
        )


def _hold_nothing(size: int) -> None:
    """What a request fetches is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Who asks, and until when the answer is of use.

    Attributes:
        request_id: for logs and the header x-request-id.
        key_name: of the API key, for rate limits and logs; None on a server without keys.
        deadline: on `time.monotonic()`'s clock, in seconds.
        disconnected: whether the client has left; may be called from any thread.
        hold: to be called with the size of each image that was fetched for the request, in bytes;
            raises ServiceError: 413 they are too large together, 429 the server holds too much.
    """

    request_id: str
    key_name: str | None
    deadline: float
    disconnected: Callable[[], bool]
    hold: Callable[[int], None] = _hold_nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a call's time went, in seconds.

    Attributes:
        prepare_s: tokenising and image decoding, waiting for a thread included.
        queue_s: from prepared to the start of the run that computed the last of its items.
        engine_s: of the runs its items were in, from the first's start to the last's end.
        total_s: from `embed` to its return.
    """

    prepare_s: float
    queue_s: float
    engine_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where one image's image tokens lie in an item's multi-vector.

    Attributes:
        start: the first image token's row of the multi-vector.
        rows, columns: of image tokens; rows × columns of them follow one another in raster order.
        image: which of the item's images, from 0.
    """

    start: int
    rows: int
    columns: int
    image: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """The vectors of one call, in the order of its items. The arrays belong to the receiver.

    Attributes:
        single: float32 [B, D], C-order, rows of length 1 unless the call said `normalize=False`;
            None if not asked for.
        multi: float32 [T_i, d] of each item, C-order, rows of length 1; None if not asked for.
        num_tokens: int64 [B], tokens of each item after truncation, prefix and image tokens
            included. With late chunking the prefix counts for the first text of a group.
        num_image_tokens: int64 [B], how many of them are image tokens.
        truncated: bool [B], whether an item's text was cut.
        image_spans: of each item; empty where it has no images.
        adapter_hashes: by task of the call: the first 16 hexadecimal digits of a SHA-256 that
            changes whenever the adapter's weights do.
        timings: of this call.
    """

    single: NDArray[np.float32] | None
    multi: tuple[NDArray[np.float32], ...] | None
    num_tokens: NDArray[np.int64]
    num_image_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    image_spans: tuple[tuple[ImageSpan, ...], ...]
    adapter_hashes: Mapping[str, str]
    timings: Timings


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One text's tokens.

    Attributes:
        ids: in the model's vocabulary.
        tokens: what each id is spelled with in the vocabulary's own alphabet, e.g. "Ġworld".
        offsets: (start, end) characters of each token in the text as it was encoded, prefix
            included.
        num_prefix_tokens: how many tokens at the front are of the prefix alone.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    num_prefix_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the server says of its model. Known as soon as the bundle's manifest is read.

    Attributes:
        name: the name that responses carry, e.g. "jina-embeddings-v4".
        aliases: other names that requests may use, without task suffixes.
        source: Hub id or name of the checkpoint.
        revision: its commit, or None.
        license: of the weights, or None if unknown.
        version: of this program.
        created: seconds since 1970 when the bundle was written.
        tasks: adapters that calls may name now.
        default_task: adapter for items that name none.
        default_prompt: its prompt.
        dimensions: size of a whole single vector.
        default_dimensions: size of single vectors where a call does not say.
        matryoshka_dimensions: sizes that the model was trained for, ascending.
        multi_dimensions: size of a multi-vector row.
        max_tokens: longest text in tokens that a call may ask for.
        max_items: of a call.
        max_pixels: an image is shrunk to at most this many.
        vocab_size: token ids are below this.
        engine: name of the bundle's engine, e.g. "ort-fp32".
        precision: of weights and matrix products, e.g. "fp32".
        adapters: "merged" (a fixed set) or "runtime" (load and unload work).
        adapter_hashes: by task, as in `EmbedResult`.
    """

    name: str
    aliases: tuple[str, ...]
    source: str
    revision: str | None
    license: str | None
    version: str
    created: int
    tasks: tuple[str, ...]
    default_task: str
    default_prompt: Prompt
    dimensions: int
    default_dimensions: int
    matryoshka_dimensions: tuple[int, ...]
    multi_dimensions: int
    max_tokens: int
    max_items: int
    max_pixels: int
    vocab_size: int
    engine: str
    precision: str
    adapters: Literal["merged", "runtime"]
    adapter_hashes: Mapping[str, str]


class Embedding(Protocol):
    """The embedding service, as dialects see it. All methods are for the event loop's thread."""

    @property
    def state(self) -> ReadyState:
        """Whether calls are answered now."""
        ...

    def info(self) -> ModelInfo:
        """Return what is known of the model; works in every state."""
        ...

    async def embed(self, call: EmbedCall, context: CallContext) -> EmbedResult:
        """Return the vectors of a call. Cancelling the await drops what was not computed yet.

        Raises:
            ServiceError: 413 too many items or tokens; 422 an item or option cannot be used (with
                `index` or `param`); 429 the queue or the key's tokens are full; 499 the client
                left; 503 not ready; 504 the deadline passed.
        """
        ...

    async def tokenize(
        self, texts: Sequence[str], prompt: Prompt | None = None
    ) -> list[TokenizedText]:
        """Return the tokens of each text, whole, behind the prefix of `prompt` if one is given.

        Raises:
            ServiceError: 413 too many texts or characters; 422 a text cannot be encoded; 503 not
                ready.
        """
        ...

    async def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each list of ids of the model's vocabulary.

        Raises:
            ServiceError: 413 too many lists or ids; 422 an id is not in the vocabulary; 503 not
                ready.
        """
        ...

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None:
        """Make a PEFT folder on the server's disk usable as task `name`; replaces one of that name.

        Args:
            name: what calls will pass as `task`.
            folder: within the server's adapter folder.
            task: which of the folder's adapters, where it holds several.

        Raises:
            ServiceError: 403 the folder is not within the adapter folder; 409 the engine's
                adapters are merged; 422 the adapter cannot be used; 503 not ready.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Remove an adapter; calls that were accepted finish with it.

        Raises:
            ServiceError: 404 no adapter has that name; 409 the engine's adapters are merged; 503
                not ready.
        """
        ...
