"""Cases are the same every time, and loads are what they say."""

import threading
import time

import numpy as np
import pytest
from backends.registry import COMPETITORS
from cases.case import CASES, lognormal_lengths, shrunk
from cases.inputs import image_pixels, multi_vectors, page_pixels, token_ids
from cases.loops import closed_loop, open_loop


def test_lognormal_lengths_are_seeded_and_within_bounds() -> None:
    lengths = lognormal_lengths(500, seed=1)
    assert lengths == lognormal_lengths(500, seed=1) != lognormal_lengths(500, seed=2)
    assert min(lengths) >= 8
    assert max(lengths) == 512
    assert 50 < np.median(lengths) < 80


@pytest.mark.parametrize("name", list(CASES))
def test_small_cases_keep_the_kind_and_are_smaller(name: str) -> None:
    case, small = CASES[name], shrunk(CASES[name])
    assert (case.kind, case.unit, case.rounds) == (small.kind, small.unit, small.rounds)
    assert sum(small.lengths) < sum(case.lengths) or not case.lengths
    assert sum(w * h for w, h in small.images) < sum(w * h for w, h in case.images) or (
        not case.images
    )


def test_cases_name_peers_that_there_are() -> None:
    for case in CASES.values():
        assert set(case.competitors or ()) <= set(COMPETITORS), case.name


def test_texts_have_their_lengths_and_no_excluded_id() -> None:
    texts = token_ids([3, 900], num_ids=10, excluded=[2, 7])
    assert [len(text) for text in texts] == [3, 900]
    assert set(texts[1].tolist()) == set(range(10)) - {2, 7}
    np.testing.assert_array_equal(texts[1], token_ids([3, 900], 10, [2, 7])[1])


def test_images_have_their_sizes_and_are_not_blank() -> None:
    for draw in (page_pixels, image_pixels):
        pixels = draw(300, 200)
        assert pixels.shape == (200, 300, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 5


def test_multi_vectors_are_unit_rows() -> None:
    (rows,) = multi_vectors([5])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_a_closed_loop_has_as_many_requests_under_way_as_clients() -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def request() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1

    wall, latencies = closed_loop(request, clients=3, count=9)
    assert most == 3
    assert len(latencies) == 9
    assert wall >= 3 * min(latencies)


def test_an_open_loop_counts_waiting_for_an_engine_that_is_too_slow() -> None:
    lock = threading.Lock()

    def request() -> None:
        with lock:
            time.sleep(0.01)

    _, latencies = open_loop(request, rate=1000, count=10)
    assert len(latencies) == 10
    # Ten of 10 ms each arrive within about as much: the last waits for most of the others.
    assert max(latencies) > 0.05
