"""Backends get the same rectangles back, run in processes of their own, and are never hidden."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from backends import engines, preparation
from backends.contract import EngineChoice, Setup
from backends.engines import choose_engines
from backends.messages import Absent, Loaded, Measured, Order, decode_order, encode
from backends.padding import embed_padded
from backends.preparation import Preparation
from backends.registry import COMPETITORS, backends_of
from backends.rounds import Arena, cosines, run_case, same_nearest
from cases.case import CASES, shrunk
from numpy.typing import NDArray

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.engines.select import engines_of


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(
        checkpoint=tmp_path,
        bundle=tmp_path,
        work=tmp_path,
        task="retrieval",
        threads=1,
        num_ids=100,
        excluded=(7,),
        engines=(choice("int8"), choice("fp32")),
    )


def choice(precision: str) -> EngineChoice:
    name = f"ort-{precision}"
    return EngineChoice(label=name, name=name, bundle=Path("bundle"), precision=precision)


@pytest.mark.parametrize("batch", [None, 1, 2, 8])
def test_padding_and_sorting_change_neither_values_nor_order(batch: int | None) -> None:
    texts = [np.arange(1, length + 1) for length in (5, 2, 9, 2, 1)]
    rectangles = []

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        rectangles.append(ids.shape)
        assert ((ids > 0) == mask).all()
        return np.stack([ids.sum(axis=1), mask.sum(axis=1)], axis=1).astype(np.float32)

    found = embed_padded(forward, texts, batch)
    assert found.tolist() == [[text.sum(), len(text)] for text in texts]
    assert max(rows for rows, _ in rectangles) == min(batch or 5, 5)


def test_an_order_survives_its_way_to_the_process(setup: Setup) -> None:
    order = Order(backend="numpy", case="maxsim", small=True, setup=setup)
    assert decode_order(encode(order)) == order


def test_peers_take_part_in_cases_of_their_kind_only(setup: Setup) -> None:
    engines = setup.engines
    texts = backends_of(CASES["lognormal"], engines, list(COMPETITORS))
    assert "trine-ort-int8" in texts
    assert "onnx-int8-sorted" in texts
    assert "numpy" not in texts
    assert "onnx-int8-sorted" not in backends_of(CASES["query"], [], list(COMPETITORS))
    assert backends_of(CASES["maxsim"], engines, None) == ["trine", "numpy", "torch"]


def test_a_case_leaves_out_what_would_take_too_long_unless_it_is_named(setup: Setup) -> None:
    assert backends_of(CASES["longest"], setup.engines, None) == ["trine-ort-int8"]
    assert backends_of(CASES["longest"], setup.engines[1:], None) == ["trine-ort-fp32"]
    assert "trine-ort-fp32" in backends_of(CASES["ragged"], setup.engines, None)
    assert "compile-fp32" in backends_of(CASES["long"], setup.engines, ["compile-fp32"])


def test_engines_are_named_with_label_and_bundle(nano_bundle: Path, tmp_path: Path) -> None:
    (only,) = choose_engines([], nano_bundle)
    assert (only.backend, only.precision) == ("trine-ort-fp32", "fp32")
    (named,) = choose_engines([f"mine=ort-fp32@{nano_bundle}"], tmp_path)
    assert (named.backend, named.bundle) == ("trine-mine", nano_bundle.resolve())
    with pytest.raises(ValueError, match="share a label"):
        choose_engines(["ort-fp32", "ort-fp32"], nano_bundle)
    with pytest.raises(ValueError, match="LABEL"):
        choose_engines(["="], nano_bundle)


def test_engines_are_not_left_out_silently_where_the_kernels_are_not_compiled(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = engines_of(open_bundle(nano_bundle))
    native = dataclasses.replace(entry, name="native-int8", runner="native")
    monkeypatch.setattr(engines, "engines_of", lambda bundle: (entry, native))
    monkeypatch.setattr(engines, "is_compiled", lambda: False)
    with pytest.raises(ValueError, match=r"native-int8 would be left out.*build_ext"):
        choose_engines([], nano_bundle)


def test_preparing_runs_only_the_steps_whose_files_are_missing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(makes: str) -> Preparation:
        return Preparation(
            makes=makes, environment="torch", script="", arguments=lambda s: [makes], title=makes
        )

    steps = {"export": step("here"), "openvino": step("new"), "gguf": step("unneeded")}
    monkeypatch.setattr(preparation, "STEPS", steps)
    (setup.work / "here").touch()
    lines: list[str] = []
    preparation.prepare(setup, ["openvino", "export"], lambda name: Path("false"), lines.append)
    assert lines[0] == "making new, once"
    assert "failed" in lines[1]
    assert len(lines) == 2


def test_a_case_is_run_in_processes_and_what_cannot_run_says_why(
    setup: Setup, tmp_path: Path
) -> None:
    case = shrunk(CASES["maxsim"])

    def order(backend: str) -> Order:
        return Order(backend=backend, case=case.name, small=True, setup=setup)

    arena = Arena(
        rounds=2,
        order=order,
        python=lambda name: Path(sys.executable),
        logs=tmp_path / "logs",
        said=lambda line: None,
    )
    numpy_peer, plain = run_case(arena, case, ["numpy", "onnx-int8"], reference=None)
    assert isinstance(numpy_peer.loaded, Loaded)
    assert numpy_peer.loaded.versions["numpy"] == np.__version__
    assert [type(r) for r in numpy_peer.rounds] == [Measured, Measured]
    assert 2 <= len(numpy_peer.latencies) <= 2 * case.calls
    assert numpy_peer.rate(case) == pytest.approx((len(case.lengths) - 1) / numpy_peer.median_s())
    assert numpy_peer.rounds[0].peak_bytes > 10e6
    assert plain.rounds == ()
    assert isinstance(plain.absent, Absent)
    assert plain.absent.reason == "failed"
    assert "plain-int8.onnx" in plain.absent.message


def test_a_process_is_started_anew_each_round_where_memory_does_not_suffice(
    setup: Setup, tmp_path: Path
) -> None:
    case = shrunk(CASES["maxsim"])
    started = []

    def order(backend: str) -> Order:
        started.append(backend)
        return Order(backend=backend, case=case.name, small=True, setup=setup)

    arena = Arena(
        rounds=2,
        order=order,
        python=lambda name: Path(sys.executable),
        logs=tmp_path / "logs",
        said=lambda line: None,
        alone=True,
    )
    (numpy_peer,) = run_case(arena, case, ["numpy"], reference=None)
    assert len(numpy_peer.rounds) == len(started) == 2


def test_cosines_are_by_row_whatever_the_lengths() -> None:
    reference = np.eye(3, dtype=np.float32)
    vectors = np.array([[2, 0, 0], [0, 1, 0], [0, 3, 4]], np.float32)
    np.testing.assert_allclose(cosines(vectors, reference), [1, 1, 0.8], rtol=1e-6)
    assert np.isnan(cosines(vectors[:2], reference)).all()


def test_nearest_neighbours_are_compared_from_four_items_on() -> None:
    reference = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    swapped = reference[[0, 2, 1, 3]]
    assert same_nearest(reference, reference) == 1.0
    assert same_nearest(swapped, reference) == 0.0
    assert same_nearest(reference[:3], reference[:3]) is None
