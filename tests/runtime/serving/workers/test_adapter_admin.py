import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.inputs import Prompt
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem, ServiceError

#: `Served` of conftest.py, which tests cannot import.
Served = Any
Serve = Callable[..., AbstractContextManager[Served]]


def text(content: str, task: str = "retrieval", prompt: Prompt = "query") -> EmbedItem:
    return EmbedItem(content, task, prompt)


def close(found: NDArray[np.float32] | None, wanted: NDArray[np.float32] | None) -> bool:
    """Return whether vectors agree but for the rounding of another batch."""
    assert found is not None
    assert wanted is not None
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, atol=2e-6))


@pytest.fixture
def adapters_served(
    golden_runtime_bundle: Path,
    serve: Serve,
    tmp_path: Path,
    write_peft: Callable[..., Path],
    random_adapter: Callable[..., Any],
) -> Iterator[tuple[Served, Path]]:
    """A server, and its folder of adapters, which has "one" and "two"."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    write_peft(folder / "one", ("", random_adapter(4, 1)))
    write_peft(folder / "two", ("", random_adapter(4, 2)))
    with serve(golden_runtime_bundle, adapter_folder=folder) as opened:
        yield opened, folder


def test_adapters_come_and_go_while_calls_run(
    adapters_served: tuple[Served, Path],
) -> None:
    served, _ = adapters_served
    service = served.service

    async def change_under_load() -> dict[str, list[NDArray[np.float32]]]:
        found: dict[str, list[NDArray[np.float32]]] = {}
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                call = EmbedCall(items=(text("a contract", "legal"), text("a contract")))
                result = await service.embed(call, served.context())
                assert result.single is not None
                digest = result.adapter_hashes["legal"]
                found.setdefault(digest, []).append(result.single[0])

        await service.load_adapter("legal", "one")
        asking = [asyncio.ensure_future(ask()) for _ in range(4)]
        for folder_name in ("two", "one", "two"):
            await asyncio.sleep(0.05)
            await service.load_adapter("legal", folder_name)
        await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*asking)
        await service.unload_adapter("legal")
        return found

    found = served.run(change_under_load())
    assert len(found) == 2
    firsts = [vectors[0] for vectors in found.values()]
    assert not np.allclose(firsts[0], firsts[1], atol=1e-3)
    for vectors in found.values():
        assert np.allclose(vectors, vectors[0], atol=5e-6), "a hash stood for two adapters"
    assert "legal" not in service.info().tasks
    with pytest.raises(ServiceError):
        served.embed(text("a", "legal"))


@pytest.mark.parametrize(
    ("name", "folder", "status"),
    [
        ("legal", "../outside", 403),
        ("legal", "/etc", 403),
        ("legal", "missing", 422),
        ("legal", "\0", 422),
        ("le gal", "one", 422),
        ("", "one", 422),
    ],
)
def test_an_adapter_that_may_not_be_loaded_is_refused(
    adapters_served: tuple[Served, Path], name: str, folder: str, status: int
) -> None:
    served, _ = adapters_served
    before = served.service.info().adapter_hashes
    with pytest.raises(ServiceError) as refused:
        served.run(served.service.load_adapter(name, folder))
    assert refused.value.status == status
    assert served.service.info().adapter_hashes == before


def test_a_damaged_adapter_leaves_the_one_before(
    adapters_served: tuple[Served, Path],
    write_peft: Callable[..., Path],
    random_adapter: Callable[..., Any],
) -> None:
    served, folder = adapters_served
    write_peft(folder / "good", ("", random_adapter(4, 1)))
    write_peft(folder / "bad", ("", random_adapter(4, 2)), use_dora=True)
    served.run(served.service.load_adapter("legal", "good"))
    before = served.embed(text("a", "legal"))
    with pytest.raises(ServiceError) as refused:
        served.run(served.service.load_adapter("legal", "bad"))
    assert refused.value.code == "unusable_adapter"
    after = served.embed(text("a", "legal"))
    assert after.adapter_hashes == before.adapter_hashes
    assert close(after.single, before.single)


def test_a_change_is_finished_if_whoever_asked_for_it_leaves(
    adapters_served: tuple[Served, Path],
) -> None:
    served, _ = adapters_served
    service = served.service

    async def leave() -> None:
        asking = asyncio.ensure_future(service.load_adapter("legal", "one"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while service.adapters.changing:
            await asyncio.sleep(0.01)

    served.run(leave())
    assert "legal" in service.info().tasks
    assert served.embed(text("a", "legal")).adapter_hashes["legal"]
    served.run(service.unload_adapter("legal"))


def test_merged_adapters_stay_as_they_are(served: Served) -> None:
    for change in (
        served.service.load_adapter("legal", "one"),
        served.service.unload_adapter("code"),
    ):
        with pytest.raises(ServiceError) as refused:
            served.run(change)
        assert refused.value.status == 409


def test_adapters_are_told_apart_by_their_hash(served: Served, served_runtime: Served) -> None:
    for either in (served, served_runtime):
        hashes = either.service.info().adapter_hashes
        assert len(set(hashes.values())) == len(hashes) == 3
        found = either.embed(text("a"), text("b", "code"))
        assert found.adapter_hashes == {name: hashes[name] for name in ("retrieval", "code")}


def test_a_staged_adapter_is_unseen_until_it_is_kept(
    adapters_served: tuple[Served, Path],
) -> None:
    served, _ = adapters_served
    admin = served.service.adapters
    served.run(served.service.load_adapter("legal", "one"))
    before = served.embed(text("a", "legal"))

    async def prepare(then: Callable[[str], None], times: int) -> None:
        for _ in range(times):
            await admin.prepare("legal", "two", None)
            then("legal")

    served.run(prepare(admin.abort, 40))  # more than there are slots
    after = served.embed(text("a", "legal"))
    assert after.adapter_hashes == before.adapter_hashes
    assert close(after.single, before.single)
    served.run(prepare(admin.commit, 1))
    kept = served.embed(text("a", "legal"))
    assert kept.adapter_hashes != before.adapter_hashes
    assert kept.adapter_hashes["legal"] == served.service.info().adapter_hashes["legal"]
    assert not close(kept.single, before.single)


def test_an_adapter_that_only_other_workers_have_is_not_mistaken_for_the_one_before(
    adapters_served: tuple[Served, Path],
) -> None:
    served, _ = adapters_served
    before = served.embed(text("a")).single
    served.service.adapters.miss("retrieval", "its folder is gone")
    assert "retrieval" in served.service.info().tasks
    with pytest.raises(ServiceError) as refused:
        served.embed(text("a"))
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert "its folder is gone" in refused.value.message
    served.run(served.service.load_adapter("retrieval", "one"))
    assert not close(served.embed(text("a")).single, before)
    served.service.adapters.miss("retrieval", "its folder is gone")
    served.run(served.service.unload_adapter("retrieval"))
    assert "retrieval" not in served.service.info().tasks
