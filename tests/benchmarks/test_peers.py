"""Contestants get the same rectangles back, run in processes of their own, and are never hidden."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cases.case import CASES, shrunk
from numpy.typing import NDArray
from peers.contract import Setup
from peers.messages import Absent, Loaded, Measured, Order, decode_order, encode
from peers.padding import embed_padded
from peers.registry import PEERS, contestants_of
from peers.rounds import Arena, run_case, same_nearest, worst_cosine


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
    )


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
    order = Order(contestant="numpy", case="maxsim", small=True, setup=setup)
    assert decode_order(encode(order)) == order


def test_peers_take_part_in_cases_of_their_kind_only() -> None:
    everyone = list(PEERS)
    texts = contestants_of(CASES["lognormal"], ["ort-fp32"], everyone)
    assert "trine-ort-fp32" in texts
    assert "onnx-int8-sorted" in texts
    assert "numpy" not in texts
    assert "onnx-int8-sorted" not in contestants_of(CASES["query"], [], everyone)
    assert contestants_of(CASES["maxsim"], ["ort-fp32"], everyone) == ["trine", "numpy", "torch"]


def test_a_case_is_run_in_processes_and_what_cannot_run_says_why(
    setup: Setup, tmp_path: Path
) -> None:
    case = shrunk(CASES["maxsim"])

    def order(contestant: str) -> Order:
        return Order(contestant=contestant, case=case.name, small=True, setup=setup)

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
    assert len(numpy_peer.latencies) == 2 * case.calls
    assert numpy_peer.rate(case) == pytest.approx((len(case.lengths) - 1) / numpy_peer.median_s())
    assert numpy_peer.rounds[0].peak_bytes > 10e6
    assert plain.rounds == ()
    assert isinstance(plain.absent, Absent)
    assert plain.absent.reason == "failed"
    assert "plain-int8.onnx" in plain.absent.message


def test_the_worst_cosine_is_of_the_worst_row_whatever_the_lengths() -> None:
    reference = np.eye(3, dtype=np.float32)
    vectors = np.array([[2, 0, 0], [0, 1, 0], [0, 3, 4]], np.float32)
    assert worst_cosine(vectors, reference) == pytest.approx(0.8)
    assert np.isnan(worst_cosine(vectors[:2], reference))


def test_nearest_neighbours_are_compared_from_four_items_on() -> None:
    reference = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    swapped = reference[[0, 2, 1, 3]]
    assert same_nearest(reference, reference) == 1.0
    assert same_nearest(swapped, reference) == 0.0
    assert same_nearest(reference[:3], reference[:3]) is None
