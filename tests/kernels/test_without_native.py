"""Kernels that numpy stands in for give the same where nothing was compiled."""

import numpy as np
import pytest

from trine.kernels import maxsim, patchify, resize


def test_images_and_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (90, 70, 3), np.uint8)
    mean, deviation = np.full(3, 120, np.float32), np.full(3, 60, np.float32)
    order = source.permutation(6)
    vectors = [source.standard_normal((length, 8), np.float32) for length in (3, 5, 40)]

    def results() -> list[np.ndarray]:
        resized = resize.resize_bicubic(pixels, 56, 84, threads=2)
        sizes = {"patch_size": 14, "merge_size": 2, "num_frames": 2}
        return [
            resized,
            patchify.patchify(resized, mean, deviation, order, **sizes),
            maxsim.maxsim_scores(vectors[:1], vectors),
        ]

    with_native = results()
    for module in (resize, patchify, maxsim):
        monkeypatch.setattr(module, "native_library", lambda: None)
    without = results()
    np.testing.assert_array_equal(with_native[0], without[0])
    np.testing.assert_array_equal(with_native[1], without[1])
    np.testing.assert_allclose(with_native[2], without[2], rtol=1e-5)
