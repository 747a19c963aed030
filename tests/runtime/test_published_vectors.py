"""The runtime against what the published code returned in float32 on the same checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.embedder import Embedder
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.load_image import load_image
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "data" / "golden"
NANO = TESTS / "data" / "nano"

Reference = dict[str, NDArray[np.generic]]


def reference_of(folder: Path) -> Reference:
    with np.load(folder / "reference.npz") as archive:
        return {name: archive[name] for name in archive.files}


def image_path(name: str) -> Path:
    places = (GOLDEN / "images", ROOT / "export" / "nano" / "demo" / "pictures")
    return next(place / name for place in places if (place / name).exists())


@pytest.fixture(
    scope="module",
    params=["golden_bundle", "golden_runtime_bundle", "nano_bundle", "nano_runtime_bundle"],
)
def case(request: pytest.FixtureRequest) -> tuple[Embedder, Reference, list[str]]:
    bundle: Path = request.getfixturevalue(request.param)
    data = GOLDEN if request.param.startswith("golden") else NANO
    return Embedder.load(bundle), reference_of(data), json.loads((data / "texts.json").read_text())


def image_names(reference: Reference) -> list[str]:
    return sorted({key.split("/")[1] for key in reference if key.startswith("image/")})


def text_cases(reference: Reference) -> list[tuple[int, str, str]]:
    parts = (key.split("/") for key in reference if key.startswith("text/"))
    return sorted({(int(p[1]), p[2], p[3]) for p in parts if p[4] == "single"})


def test_text_vectors_are_the_published_ones(
    case: tuple[Embedder, Reference, list[str]],
) -> None:
    embedder, reference, texts = case
    worst = {"single": 0.0, "multi": 0.0}
    for index, task, prompt in text_cases(reference):
        for head in worst:
            found = embedder.encode_text(
                texts[index], task, prompt_name=prompt, return_multivector=head == "multi"
            )
            want = reference[f"text/{index}/{task}/{prompt}/{head}"].astype(np.float64)
            worst[head] = max(worst[head], float(np.abs(found - want).max()))
    print(f"{len(text_cases(reference))} texts, largest differences {worst}")
    assert worst["single"] <= 5e-6
    assert worst["multi"] <= 5e-5


def test_image_vectors_are_the_published_ones(
    case: tuple[Embedder, Reference, list[str]],
) -> None:
    embedder, reference, _ = case
    worst = {"single": 0.0, "multi": 0.0}
    lowest = 1.0
    for name in image_names(reference):
        for task in embedder.tasks:
            for head in worst:
                found = np.atleast_2d(
                    embedder.encode_image(
                        image_path(name), task, return_multivector=head == "multi"
                    )
                )
                want = np.atleast_2d(reference[f"image/{name}/{task}/{head}"]).astype(np.float64)
                assert found.shape == want.shape
                worst[head] = max(worst[head], float(np.abs(found - want).max()))
                lengths = np.linalg.norm(want, axis=1)
                lowest = min(lowest, float(((found * want).sum(axis=1) / lengths).min()))
    print(f"images {image_names(reference)}: largest differences {worst}, cosine {lowest}")
    assert lowest >= 0.999999
    assert worst["single"] <= 1e-4
    assert worst["multi"] <= 5e-4


def preparation_of(embedder: Embedder) -> Preprocessor:
    bundle = embedder.bundle
    return Preprocessor(bundle.manifest.model, TextTokenizer(bundle.path("tokenizer.json")))


def test_token_ids_are_the_published_ones(case: tuple[Embedder, Reference, list[str]]) -> None:
    embedder, reference, texts = case
    model = embedder.bundle.manifest.model
    checked = 0
    for prompt in ("query", "passage"):
        request = check_request(
            embedder.tasks, model, num_items=len(texts), task="retrieval", prompt_name=prompt
        )
        for index, sequence in enumerate(preparation_of(embedder).sequences(texts, request)):
            key = f"text/{index}/retrieval/{prompt}/ids"
            if key in reference:
                np.testing.assert_array_equal(sequence.token_ids, reference[key])
                checked += 1
    assert checked == len([key for key in reference if key.endswith("/ids") and "text/" in key])
    assert checked > 0


def test_patches_and_image_ids_are_the_published_ones(
    case: tuple[Embedder, Reference, list[str]],
) -> None:
    from trine.runtime.inputs import ImageText

    embedder, reference, _ = case
    model = embedder.bundle.manifest.model
    request = check_request(embedder.tasks, model, num_items=1, task="retrieval")
    for name in image_names(reference):
        patched = patch_image(
            load_image(image_path(name)), model.image, model.vision, model.image.max_pixels
        )
        assert (1, *patched.grid) == tuple(reference[f"image/{name}/grid"].ravel())
        np.testing.assert_array_equal(patched.patches[:8], reference[f"image/{name}/pixels_head"])
        mean, deviation = reference[f"image/{name}/pixels_mean_std"]
        assert float(patched.patches.mean(dtype=np.float64)) == pytest.approx(mean, abs=1e-5)
        assert float(patched.patches.std(dtype=np.float64)) == pytest.approx(deviation, abs=1e-5)
        (sequence,) = preparation_of(embedder).sequences([ImageText((image_path(name),))], request)
        np.testing.assert_array_equal(sequence.token_ids, reference[f"image/{name}/ids"].ravel())
