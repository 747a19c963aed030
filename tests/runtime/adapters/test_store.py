"""Slots and views of the resident adapters, and what happens while requests use them."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.adapters.file import AdapterTensors, StoredPair
from trine.runtime.adapters.layout import PROJECTOR, adapted_shapes, lora_groups
from trine.runtime.adapters.projector import Projector
from trine.runtime.adapters.store import MAX_ADAPTERS, AdapterBank
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.ort.decoders import rank_mask
from trine.runtime.errors import InputError
from trine.runtime.inference.batch_planner import BatchLimits

Array = NDArray[np.float32]

PEFT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint" / "adapters"
MAX_RANK = 4
MAX_DIFFERENCE = 2e-5
#: How long a test waits for what must happen, and for what must not, in seconds.
SOON, A_WHILE = 20, 0.1
#: No item shares a run, and a window holds a few: a request of many has many of both.
SMALL = BatchLimits(tokens=1, patches=1, window_tokens=40)


@pytest.fixture
def model(golden_runtime_bundle: Path) -> ModelConfig:
    return open_bundle(golden_runtime_bundle).manifest.model


@pytest.fixture
def projector(model: ModelConfig) -> Projector:
    source = np.random.default_rng(9)
    shape = (model.projector_dim, model.decoder.hidden_size)
    return Projector(
        source.standard_normal(shape, np.float32), source.standard_normal(shape[0], np.float32)
    )


@pytest.fixture
def bank(model: ModelConfig, projector: Projector) -> AdapterBank:
    return AdapterBank(model, AdapterLayout(max_rank=MAX_RANK, dtype="F32", files={}), projector)


def tensors(model: ModelConfig, rank: int = MAX_RANK, seed: int = 0, *ends: str) -> AdapterTensors:
    """Return a random adapter of the layers whose name has one of `ends`, or of all."""
    source = np.random.default_rng(seed)
    pairs = {
        module: StoredPair(
            source.standard_normal((rank, num_in), np.float32),
            source.standard_normal((rank, num_out), np.float32),
        )
        for module, (num_out, num_in) in adapted_shapes(model).items()
        if not ends or module.endswith(ends)
    }
    return AdapterTensors(pairs, "F32")


def slot_of(bank: AdapterBank, name: str) -> int:
    with bank.hold([name]) as handles:
        return handles[name].slot


def deltas(bank: AdapterBank, name: str, model: ModelConfig) -> dict[str, Array]:
    """Return Bᵀ·A [out, in] of each layer as the decoder would add it."""
    view = bank.view([slot_of(bank, name)])
    found: dict[str, Array] = {}
    for group in lora_groups(model.decoder):
        a, b = (np.asarray(view.arrays[f"{group.name}.lora_{half}"], np.float32) for half in "ab")
        parts = np.split(b.T @ a, np.cumsum(group.num_outs)[:-1])
        found |= dict(zip(group.modules, parts, strict=True))
    return found


# Slots and views


def test_the_lowest_free_slot_is_taken(bank: AdapterBank, model: ModelConfig) -> None:
    for name in "abcde":
        bank.add(name, tensors(model))
    assert [slot_of(bank, name) for name in "abcde"] == [0, 1, 2, 3, 4]
    for name in "dba":
        bank.unload(name, None)
    assert bank.names == ("c", "e")
    for name in "wxyz":
        bank.add(name, tensors(model))
    assert [slot_of(bank, name) for name in "wxyz"] == [0, 1, 3, 5]


def test_an_adapter_that_is_replaced_frees_its_slot_when_its_last_user_ends(
    bank: AdapterBank, model: ModelConfig
) -> None:
    bank.add("a", tensors(model, seed=1))
    before = {name: rows.copy() for name, rows in deltas(bank, "a", model).items()}
    with ExitStack() as users:
        first = users.enter_context(bank.hold(["a", "a"]))["a"]
        with bank.hold(["a"]):
            bank.add("a", tensors(model, seed=2))
            bank.add("a", tensors(model, seed=3))  # the one in between had no users
        bank.add("b", tensors(model, seed=4))
        assert (first.slot, slot_of(bank, "a"), slot_of(bank, "b")) == (0, 2, 1)
        kept = bank.view([first.slot]).arrays["layers.0.self_attn.o.lora_b"]
        a = bank.view([first.slot]).arrays["layers.0.self_attn.o.lora_a"]
        np.testing.assert_array_equal(kept.T @ a, before["layers.0.self_attn.o_proj"])
    bank.add("c", tensors(model, seed=5))
    assert slot_of(bank, "c") == 0


def test_slots_of_adapters_that_could_not_be_added_are_free_again(
    bank: AdapterBank, model: ModelConfig
) -> None:
    for module in ("layers.2.mlp.down_proj", PROJECTOR):
        good = tensors(model)
        narrow = dataclasses.replace(good.pairs[module], a=good.pairs[module].a[:, :5])
        bad = AdapterTensors({**good.pairs, module: narrow}, "F32")
        with pytest.raises(ValueError, match=r"broadcast|mismatch"):
            bank.add("a", bad)
    assert bank.names == ()
    bank.add("b", tensors(model))
    assert slot_of(bank, "b") == 0


def test_more_adapters_than_slots(bank: AdapterBank, model: ModelConfig) -> None:
    small = tensors(model, 1, 0, "layers.0.mlp.up_proj")
    for number in range(MAX_ADAPTERS):
        bank.add(f"n{number}", small)
    for name in ("one more", "n3"):
        with pytest.raises(InputError, match=f"'{name}' cannot be loaded: all 32 slots"):
            bank.add(name, small)
    assert len(bank.names) == MAX_ADAPTERS


@pytest.mark.parametrize("rank", [1, 3, MAX_RANK])
def test_a_slot_holds_the_adapter_and_zeros_whatever_it_held_before(
    bank: AdapterBank, model: ModelConfig, rank: int
) -> None:
    bank.add("old", tensors(model, seed=7))
    bank.unload("old", None)
    new = tensors(model, rank, 1, "k_proj", "v_proj", "up_proj")
    bank.add("new", new)
    assert slot_of(bank, "new") == 0
    for module, rows in deltas(bank, "new", model).items():
        pair = new.stored(module)
        want = np.zeros_like(rows) if pair is None else pair.b.T @ pair.a
        np.testing.assert_allclose(rows, want, atol=1e-5, err_msg=module)


def test_query_key_and_value_lie_behind_one_another(bank: AdapterBank, model: ModelConfig) -> None:
    adapter = tensors(model, 3)
    bank.add("a", adapter)
    arrays = bank.view([0]).arrays
    hidden = model.decoder.hidden_size
    kv = model.decoder.num_kv_heads * model.decoder.head_dim
    columns = np.split(np.arange(hidden + 2 * kv), [hidden, hidden + kv])
    a, b = (arrays[f"layers.1.self_attn.qkv.lora_{half}"] for half in "ab")
    assert a.shape == (3 * MAX_RANK, hidden)
    assert b.shape == (3 * MAX_RANK, hidden + 2 * kv)
    want = np.zeros_like(b)
    for part, (letter, place) in enumerate(zip("qkv", columns, strict=True)):
        pair = adapter.pairs[f"layers.1.self_attn.{letter}_proj"]
        rows = slice(part * MAX_RANK, part * MAX_RANK + 3)
        np.testing.assert_array_equal(a[rows], pair.a)
        want[rows, place] = pair.b
    np.testing.assert_array_equal(b, want)


def test_a_view_covers_its_slots_and_those_between_without_a_copy(
    bank: AdapterBank, model: ModelConfig
) -> None:
    for number in range(4):
        bank.add(f"n{number}", tensors(model, seed=number))
    view = bank.view([3, 1, 3])
    assert (view.first, view.last) == (1, 3)
    name = "layers.0.mlp.gate.lora_a"
    assert view.arrays[name].shape == (3 * MAX_RANK, model.decoder.hidden_size)
    for number in (1, 2, 3):
        rows = view.arrays[name][(number - 1) * MAX_RANK : number * MAX_RANK]
        pair = tensors(model, seed=number).pairs["layers.0.mlp.gate_proj"]
        np.testing.assert_array_equal(rows, pair.a)
        assert np.shares_memory(rows, bank.view([number]).arrays[name])
    bank.add("n2", tensors(model, seed=8))  # into slot 4, and slot 2 is free
    bank.add("other", tensors(model, seed=9))
    rows = view.arrays[name][MAX_RANK : 2 * MAX_RANK]
    pair = tensors(model, seed=9).pairs["layers.0.mlp.gate_proj"]
    np.testing.assert_array_equal(rows, pair.a)


def test_each_token_sees_the_ranks_of_its_adapter(bank: AdapterBank, model: ModelConfig) -> None:
    for number in range(4):
        bank.add(f"n{number}", tensors(model))
    mask = rank_mask(np.array([3, 1, 1]), bank.view([1, 3]), 2)
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
    ]


def test_the_projection_is_the_bases_plus_the_adapters(
    bank: AdapterBank, model: ModelConfig, projector: Projector
) -> None:
    adapter = tensors(model)
    bank.add("all", adapter)
    bank.add("none", tensors(model, MAX_RANK, 0, "q_proj"))
    with bank.hold(["all", "none"]) as handles:
        pair = adapter.pairs[PROJECTOR]
        np.testing.assert_allclose(
            handles["all"].projector.weight, projector.weight + pair.b.T @ pair.a, atol=1e-5
        )
        np.testing.assert_array_equal(handles["none"].projector.weight, projector.weight)
        assert all(handle.projector.bias is projector.bias for handle in handles.values())


def test_names_that_are_not_loaded(bank: AdapterBank, model: ModelConfig) -> None:
    bank.add("a", tensors(model))
    with (
        pytest.raises(InputError, match=r"\['b', 'c'\] are not loaded; loaded are \['a'\]"),
        bank.hold(["c", "a", "b"]),
    ):
        pass
    with pytest.raises(InputError, match=r"'b' is not loaded; loaded are \['a'\]"):
        bank.unload("b", None)
    bank.unload("a", 0.0)  # the failed request holds nothing


def test_a_slot_is_free_when_the_last_user_of_what_was_unloaded_ends(
    bank: AdapterBank, model: ModelConfig
) -> None:
    bank.add("a", tensors(model))
    bank.add("b", tensors(model))
    with bank.hold(["a"]):
        with bank.hold(["b", "a"]):
            with pytest.raises(InputError, match=r"'a' is still used by 2 requests after 0\.1 s"):
                bank.unload("a", 0.1)
            assert bank.names == ("b",)
        bank.add("a", tensors(model))
        with bank.hold(["a"]), pytest.raises(InputError, match="still used by 1 requests"):
            bank.unload("a", 0.0)
        bank.add("c", tensors(model))
        assert slot_of(bank, "c") == 2
    bank.add("d", tensors(model))
    assert slot_of(bank, "d") == 0
