import asyncio
import dataclasses
import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine import Embedder, ImageText
from trine.runtime.errors import BundleError, EngineError, InputError, MemoryLimitError
from trine.runtime.inputs import Prompt
from trine.runtime.serving.service.calls import (
    EmbedCall,
    EmbedItem,
    ImageSpan,
    ServiceError,
)
from trine.runtime.serving.service.item_fields import ItemField

#: `Served` of conftest.py, which tests cannot import.
Served = Any
Serve = Callable[..., AbstractContextManager[Served]]


def png(width: int = 56, height: int = 84, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def text(content: str, task: str = "retrieval", prompt: Prompt = "query") -> EmbedItem:
    return EmbedItem(content, task, prompt)


@pytest.fixture(scope="module")
def embedder(golden_bundle: Path) -> Embedder:
    return Embedder.load(golden_bundle, threads=1)


def close(found: NDArray[np.float32] | None, wanted: NDArray[np.float32] | None) -> bool:
    """Return whether vectors agree but for the rounding of another batch."""
    assert found is not None
    assert wanted is not None
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, atol=2e-6))


@pytest.fixture(params=["served", "served_runtime"])
def either(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


def test_vectors_are_those_of_the_embedder(either: Served, embedder: Embedder) -> None:
    items = [
        text("a chess game"),
        text("a passage", "retrieval", "passage"),
        text("def f(): ...", "code", "passage"),
        text("like this", "text-matching", "passage"),
        text(""),
        EmbedItem(ImageText((png(),)), "retrieval"),
        EmbedItem(ImageText((png(seed=1), png(84, 56, 2)), "what is this"), "code", "passage"),
        text("word " * 300),
    ]
    found = either.embed(*items, multi=True)
    wanted = embedder.encode(
        [item.content for item in items],  # type: ignore[misc]
        task=[item.task for item in items],
        prompt_name=[item.prompt for item in items],
        return_multivector=True,
    )
    assert close(found.single, wanted.single)
    assert found.multi is not None
    assert wanted.multi is not None
    for have, want in zip(found.multi, wanted.multi, strict=True):
        assert np.allclose(have, want, atol=5e-6)
    assert found.num_tokens.tolist() == wanted.num_tokens.tolist()
    assert not found.truncated.any()


@pytest.mark.parametrize("dimensions", [None, 1, 10])
def test_dimensions_cut_and_normalise(
    served: Served, embedder: Embedder, dimensions: int | None
) -> None:
    found = served.embed(text("a chess game"), dimensions=dimensions).single
    assert found is not None
    whole = embedder.encode_text(["a chess game"], task="retrieval")
    wanted = whole[:, :dimensions]  # type: ignore[call-overload]
    assert close(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))


def test_multi_vector_rows_are_cut_and_normalised(served: Served) -> None:
    whole = served.embed(text("a chess game"), single=False, multi=True)
    cut = served.embed(text("a chess game"), single=False, multi=True, multi_dimensions=5)
    assert whole.single is None
    assert whole.multi is not None
    assert cut.multi is not None
    wanted = whole.multi[0][:, :5]
    assert close(cut.multi[0], wanted / np.linalg.norm(wanted, axis=1, keepdims=True))


def test_vectors_that_are_not_normalised_are_means(served: Served, embedder: Embedder) -> None:
    plain = served.embed(text("a chess game"), normalize=False).single
    cut = served.embed(text("a chess game"), normalize=False, dimensions=7).single
    assert plain is not None
    length = np.linalg.norm(plain)
    assert not np.isclose(length, 1.0)
    assert close(plain / length, embedder.encode_text(["a chess game"], task="retrieval"))
    assert close(cut, plain[:, :7])


def test_token_ids_are_taken_as_they_are(served: Served) -> None:
    (shown,) = served.run(served.service.tokenize(["a chess game"], "query"))
    found = served.embed(EmbedItem(shown.ids, "retrieval"), text("a chess game"), multi=True)
    assert found.num_tokens.tolist() == [len(shown.ids)] * 2
    assert found.single is not None
    assert close(found.single[:1], found.single[1:])


def test_tokens_are_shown_with_their_places(served: Served) -> None:
    (shown,) = served.run(served.service.tokenize(["chess"], "passage"))
    whole = "Passage: chess"
    assert "".join(whole[start:end] for start, end in shown.offsets) == whole
    assert served.run(served.service.decode([shown.ids])) == [whole]
    prefix = shown.offsets[: shown.num_prefix_tokens]
    assert 0 < len(prefix) < len(shown.ids)
    assert prefix[-1][1] <= len("Passage: ")


@pytest.mark.parametrize("limit", [4, 7])
def test_the_end_or_the_start_of_a_long_text_is_cut(served: Served, limit: int) -> None:
    words = "one two three four five six seven eight nine ten"
    (shown,) = served.run(served.service.tokenize([words], "query"))
    head = shown.num_prefix_tokens
    assert limit > head
    end = served.embed(text(words), max_length=limit, truncate="end")
    start = served.embed(text(words), max_length=limit, truncate="start")
    kept = shown.ids[:head] + shown.ids[len(shown.ids) - limit + head :]
    assert end.truncated.all()
    assert start.truncated.all()
    assert end.num_tokens.tolist() == start.num_tokens.tolist() == [limit]
    assert close(end.single, served.embed(EmbedItem(shown.ids[:limit], "retrieval")).single)
    assert close(start.single, served.embed(EmbedItem(kept, "retrieval")).single)


def test_a_images_text_is_cut_likewise(served: Served) -> None:
    words = "one two three four five six seven eight nine ten"
    item = EmbedItem(ImageText((png(),), words), "retrieval")
    for truncate in ("end", "start"):
        found = served.embed(item, max_length=8, truncate=truncate)
        whole = served.embed(item)
        (shown,) = served.run(served.service.tokenize([words], "query"))
        assert found.truncated.all()
        assert int(whole.num_tokens[0] - found.num_tokens[0]) == len(shown.ids) - 8
    with pytest.raises(ServiceError) as refused:
        served.embed(item, max_length=8, truncate="none")
    assert refused.value.code == "text_too_long"


def test_where_a_images_tokens_lie(served: Served) -> None:
    (spans, plain) = served.embed(
        EmbedItem(ImageText((png(56, 84), png(84, 56))), "retrieval"), text("a"), multi=True
    ).image_spans
    assert plain == ()
    assert [(span.rows, span.columns, span.image) for span in spans] == [(3, 2, 0), (2, 3, 1)]
    assert spans[1].start == spans[0].start + 6 + 2
    assert isinstance(spans[0], ImageSpan)


@pytest.mark.parametrize(
    ("items", "options", "status", "param", "index"),
    [
        ([text("a"), text("b", "poetry")], {}, 422, "task", 1),
        ([text("a")], {"dimensions": 0}, 422, "dimensions", None),
        ([text("a")], {"dimensions": 99999}, 422, "dimensions", None),
        ([text("a")], {"multi": True, "multi_dimensions": 999}, 422, "dimensions", None),
        ([text("a")], {"max_length": 0}, 422, "max_length", None),
        ([text("a")], {"single": False}, 422, "return_multivector", None),
        ([text("a"), text("\ud800")], {}, 422, "input", 1),
        ([text("a"), EmbedItem((), "retrieval")], {}, 422, "input", 1),
        ([text("a"), EmbedItem((1, 10**9), "retrieval")], {}, 422, "input", 1),
        ([text("a"), EmbedItem((-1,), "retrieval")], {}, 422, "input", 1),
        ([text("a"), text("b " * 99)], {"max_length": 9, "truncate": "none"}, 422, "input", 1),
        ([text("a"), EmbedItem(ImageText((b"GIF89a",)), "retrieval")], {}, 422, "input", 1),
        ([text("a"), EmbedItem(ImageText(()), "retrieval")], {}, 422, "input", 1),
        ([text("a"), text("")], {"late_chunking": True}, 422, "input", 1),
        ([text("a"), text("b", "code")], {"late_chunking": True}, 422, "task", 1),
        ([text("a"), text("b " * 99)], {"late_chunking": True, "max_length": 9}, 422, "input", 1),
        (
            [text("a"), EmbedItem(ImageText((png(),)), "retrieval")],
            {"late_chunking": True},
            422,
            "late_chunking",
            1,
        ),
        ([text("a")], {"late_chunking": True, "late_groups": (2,)}, 422, "late_groups", None),
    ],
)
def test_what_cannot_be_used_is_named(
    served: Served,
    items: list[EmbedItem],
    options: dict[str, Any],
    status: int,
    param: str,
    index: int | None,
) -> None:
    with pytest.raises(ServiceError) as refused:
        served.embed(*items, **options)
    error = refused.value
    assert (error.status, error.param, error.index) == (status, param, index)
    with pytest.raises(ServiceError) as of_side:
        served.embed(*items, **options, fields=(ItemField("query"), ItemField("documents", 1)))
    error = of_side.value
    if index is not None:
        wanted = "documents" if param == "input" else param
        assert (error.status, error.param, error.index) == (status, wanted, index - 1)
        assert f" {index - 1} of documents" in error.message or "together" in error.message
    assert len(served.service.queue) == 0


def test_an_empty_call_has_an_empty_answer(served: Served) -> None:
    found = served.embed(multi=True)
    assert found.single is not None
    assert found.single.shape == (0, served.service.info().dimensions)
    assert found.multi == ()


def test_many_calls_at_once_get_their_own_vectors(either: Served, embedder: Embedder) -> None:
    texts = [f"query number {i} " + "about chess " * (i % 12) for i in range(200)]
    tasks = [("retrieval", "code", "text-matching")[i % 3] for i in range(200)]
    runs = either.counted("trine_batch_items_count")

    async def all_at_once() -> list[NDArray[np.float32] | None]:
        async def one(index: int) -> NDArray[np.float32] | None:
            call = EmbedCall(items=(text(texts[index], tasks[index]),))
            return (await either.service.embed(call, either.context())).single

        return list(await asyncio.gather(*map(one, range(200))))

    found = either.run(all_at_once())
    wanted = embedder.encode(texts, task=tasks).single
    assert wanted is not None
    for have, want in zip(found, wanted, strict=True):
        assert close(have, want[None])
    assert either.counted("trine_batch_items_count") - runs < 100, "calls did not share runs"


def test_tasks_share_runs_only_beside_runtime_adapters(
    served: Served, served_runtime: Served
) -> None:
    items = [text("a", task) for task in ("retrieval", "code", "text-matching")]
    num_runs = []
    for either in (served, served_runtime):
        before = either.counted("trine_batch_items_count")
        either.embed(*items)
        num_runs.append(either.counted("trine_batch_items_count") - before)
    assert num_runs == [3, 1]


def test_nothing_is_left_behind(served: Served) -> None:
    async def leave() -> None:
        call = EmbedCall(items=tuple(text(f"{i} " * 200) for i in range(50)))
        tasks = [
            asyncio.ensure_future(served.service.embed(call, served.context())) for _ in range(5)
        ]
        await asyncio.sleep(0.02)
        for task in tasks[1:]:
            task.cancel()
        await tasks[0]
        await asyncio.gather(*tasks[1:], return_exceptions=True)

    served.run(leave())
    served.embed(text("after"), EmbedItem(ImageText((png(),)), "retrieval"))
    service = served.service
    assert (service.admission.tokens, service.admission.patches) == (0, 0)
    assert service.room.free == served.settings.queue_patches
    assert len(service.queue) == 0


def test_a_deadline_ends_the_wait_and_the_work(served: Served) -> None:
    call = EmbedCall(items=tuple(text("word " * 2000) for _ in range(60)))
    with pytest.raises(ServiceError) as refused:
        served.run(served.service.embed(call, served.context(seconds=0.05)))
    assert refused.value.status == 504
    served.embed(text("after"))
    assert len(served.service.queue) == 0
    with pytest.raises(ServiceError) as refused:
        served.run(served.service.embed(call, served.context(seconds=-1)))
    assert refused.value.status == 504


def test_the_work_of_a_client_that_left_is_dropped(served: Served) -> None:
    left = threading.Event()
    call = EmbedCall(items=tuple(text("word " * 500) for _ in range(100)))

    async def leave() -> None:
        waiting = asyncio.ensure_future(
            served.service.embed(call, served.context(left=left.is_set))
        )
        await asyncio.sleep(0.05)
        left.set()
        with pytest.raises(ServiceError) as refused:
            await waiting
        assert refused.value.status == 499

    tokens = served.counted("trine_batch_tokens_sum")
    served.run(leave())
    assert served.counted("trine_batch_tokens_sum") - tokens < 100 * 500


def test_a_full_queue_answers_at_once(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, queue_tokens=1000) as busy:

        async def flood() -> list[object]:
            call = EmbedCall(items=tuple(text("word " * 400) for _ in range(3)))
            calls = (busy.service.embed(call, busy.context()) for _ in range(20))
            return list(await asyncio.gather(*calls, return_exceptions=True))

        found = busy.run(flood())
    refused = [result for result in found if isinstance(result, ServiceError)]
    assert {error.status for error in refused} == {429}
    assert all(error.retry_after for error in refused)
    assert 0 < len(found) - len(refused) < 10


def test_too_many_items_or_tokens_are_refused(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_items=3, max_call_tokens=50) as small:
        for items in ([text("a")] * 4, [text("word " * 30)] * 2):
            with pytest.raises(ServiceError) as refused:
                small.embed(*items)
            assert refused.value.status == 413
        small.embed(text("a"), text("b"), text("c"))


def test_what_is_tokenised_or_decoded_is_bounded(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, max_items=3, max_call_tokens=50) as small:
        service = small.service
        for work in (
            service.tokenize(["a"] * 4),
            service.tokenize(["a" * 100, "b" * 101]),
            service.decode([[1]] * 4),
            service.decode([[1] * 25, [2] * 26]),
        ):
            with pytest.raises(ServiceError) as refused:
                small.run(work)
            assert refused.value.status == 413
        assert len(small.run(service.tokenize(["a" * 100, "b" * 100, ""]))) == 3
        assert len(small.run(service.decode([[1] * 50]))) == 1


def test_a_long_list_is_refused_before_all_of_it_is_tokenised(
    golden_bundle: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(golden_bundle, max_call_tokens=5000) as small:
        tokenizer = small.service.core.tokenizer  # type: ignore[union-attr]
        encode = tokenizer.encode
        lengths: list[int] = []

        def watch(texts: Any) -> Any:
            lengths.extend(map(len, texts))
            return encode(texts)

        monkeypatch.setattr(tokenizer, "encode", watch)
        with pytest.raises(ServiceError) as refused:
            small.embed(*[text("word " * 20_000)] * 20)
        assert refused.value.status == 413
        assert sum(lengths) < 20 * 100_000 / 4


def test_tokens_of_a_key_are_counted_as_they_are(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, tokens_per_minute=1000) as limited:
        found = limited.embed(text("a b c"), text("word " * 100))
        standing = limited.limits.allowance(None).tokens
        assert standing is not None
        assert standing.remaining == pytest.approx(1000 - found.num_tokens.sum(), abs=20)


def test_images_wait_for_room_instead_of_taking_memory(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle, queue_patches=64) as narrow:
        items = [EmbedItem(ImageText((png(seed=seed),)), "retrieval") for seed in range(12)]
        found = narrow.embed(*items).single
        assert found is not None
        assert len(np.unique(found.round(5), axis=0)) == 12


def test_an_engine_that_fails_fails_its_run_only(golden_bundle: Path, serve: Serve) -> None:
    with serve(golden_bundle) as broken:
        runner = broken.service.core.runner  # type: ignore[union-attr]
        engine = runner.engine

        class Failing:
            adapters = engine.adapters
            pads_attention = engine.pads_attention
            batch_group = staticmethod(engine.batch_group)
            forward_vision = staticmethod(engine.forward_vision)

            error: EngineError = EngineError("out of order")

            def forward_decoder(self, inputs: object, adapters: object) -> NDArray[np.float32]:
                raise self.error

        runner.engine = Failing()  # type: ignore[assignment]
        with pytest.raises(ServiceError) as refused:
            broken.embed(text("a"))
        assert (refused.value.status, refused.value.code) == (500, "engine_failure")
        Failing.error = MemoryLimitError("no memory")
        with pytest.raises(ServiceError) as refused:
            broken.embed(text("a"))
        assert (refused.value.status, refused.value.code) == (503, "out_of_memory")
        assert refused.value.retry_after
        runner.engine = engine
        broken.embed(text("a"))


def test_before_loading_and_after_closing_calls_are_refused(
    golden_bundle: Path, serve: Serve
) -> None:
    with serve(golden_bundle, loaded=False) as early:
        assert early.service.state == "loading"
        assert early.service.info().tasks == ("retrieval", "text-matching", "code")
        with pytest.raises(ServiceError) as refused:
            early.embed(text("a"))
        assert (refused.value.status, refused.value.code) == (503, "server_loading")
    assert early.service.state == "draining"


def test_the_model_is_described_from_the_bundle(served: Served) -> None:
    info = served.service.info()
    assert info.name == info.source
    assert (info.default_task, info.default_prompt) == ("retrieval", "query")
    assert {"jina-embeddings-v4", "jinaai/jina-embeddings-v4"} <= set(info.aliases)
    assert (info.engine, info.precision, info.adapters) == ("ort-fp32", "fp32", "merged")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tasks": ("poetry",)}, InputError),
        ({"default_task": "poetry"}, InputError),
        ({"engine": "quantum"}, BundleError),
    ],
)
def test_settings_that_do_not_fit_the_bundle_are_refused(
    golden_bundle: Path, served: Served, settings: dict[str, Any], error: type[Exception]
) -> None:
    async def open_with() -> None:
        chosen = dataclasses.replace(served.settings, **settings)
        type(served.service)(chosen, served.metrics, served.limits)

    with pytest.raises(error):
        served.run(open_with())
