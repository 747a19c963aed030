"""Export and runtime against PyTorch, on checkpoints with other numbers than the published ones.

With OMP_NUM_THREADS=1 this is several times faster: the matrices are small.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import ceil, floor, prod, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.reference.torch_reference import TorchReference
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.bundle.model_config import ImageConfig, VisionConfig
from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText, Item
from trine.runtime.preprocessing.image_processor import ImagePatches, patch_format, patch_image
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence, image_sequence, rope_tables
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.preprocessing.vision_inputs import window_order
from trine.runtime.request import check_request

pytestmark = pytest.mark.reference

torch = pytest.importorskip("torch", reason="needs the `reference` extra")

Exported = Callable[[SampleSpec, str], AbstractContextManager[tuple[Path, Path]]]
Images = st.SearchStrategy[NDArray[np.uint8]]

#: Where an export puts the adapters: into each task's decoder, or beside one decoder.
ADAPTERS = st.sampled_from(("merged", "runtime"))
#: Largest differences of vectors, and the lowest cosine of images' vectors.
TEXT_LIMITS = {"single": 5e-6, "multi": 5e-5}
IMAGE_LIMITS = {"single": 1e-4, "multi": 5e-4}
MIN_IMAGE_COSINE = 0.999999


def examples(count: int) -> settings:
    """Return settings for `count` random examples, the same in each run; each is a whole export."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are slower with several threads, and very slow where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Comparison:
    """One exported checkpoint, in this project's runtime and in PyTorch."""

    def __init__(self, checkpoint: Path, bundle: Path) -> None:
        self.embedder = Embedder.load(bundle, threads=1)
        self.model = self.embedder.bundle.manifest.model
        self.torch = TorchReference(checkpoint)
        self.preprocessor = Preprocessor(self.model, TextTokenizer(bundle / "tokenizer.json"))
        self.worst = {"single": 0.0, "multi": 0.0, "cosine": 1.0}

    def sequences(
        self, items: Sequence[Item], task: str, prompt: str = "query", max_pixels: int | None = None
    ) -> list[TokenSequence]:
        request = check_request(
            self.model.tasks,
            self.model,
            num_items=len(items),
            task=task,
            prompt_name=prompt,
            max_pixels=max_pixels,
        )
        return list(self.preprocessor.sequences(items, request))

    def expected(
        self, sequence: TokenSequence, task: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return PyTorch's single vector, pooled over `sequence.pooled`, and multi-vector."""
        ids = sequence.token_ids.tolist()
        images = {
            "pixels": np.concatenate([image.patches for image in sequence.images])
            if sequence.images
            else None,
            "grids": [(1, *image.grid) for image in sequence.images] or None,
        }
        pooled = np.flatnonzero(sequence.pooled)
        if len(pooled) == pooled[-1] + 1 - pooled[0]:
            pool = (int(pooled[0]), int(pooled[-1]) + 1)
            single, multi = self.torch.encode(ids, task, pool=pool, **images)
        else:
            hidden = self.torch.hidden_states(ids, task, **images).astype(np.float64)
            single = hidden[pooled].mean(axis=0)
            single /= np.linalg.norm(single)
            _, multi = self.torch.encode(ids, task, **images)
        return single.astype(np.float64), multi.astype(np.float64)

    def check(
        self,
        items: Sequence[Item],
        limits: dict[str, float],
        prompt: str = "query",
        max_pixels: int | None = None,
    ) -> None:
        """Compare the vectors of `items` for every task, all embedded in one call."""
        tasks = [task for task in self.model.tasks for _ in items]
        found = self.embedder.encode(
            [*items] * len(self.model.tasks),
            tasks,
            prompt_name=prompt,
            max_pixels=max_pixels,
            return_multivector=True,
        )
        sequences = [
            sequence
            for task in self.model.tasks
            for sequence in self.sequences(items, task, prompt, max_pixels)
        ]
        for row, (sequence, task) in enumerate(zip(sequences, tasks, strict=True)):
            single, multi = self.expected(sequence, task)
            self._compare("single", found.single[row][None], single[None], limits)
            self._compare("multi", found.multi[row], multi, limits)

    def _compare(
        self,
        head: str,
        found: NDArray[np.float32],
        want: NDArray[np.float64],
        limits: dict[str, float],
    ) -> None:
        assert found.shape == want.shape
        difference = np.abs(found - want)
        norms = np.linalg.norm(found.astype(np.float64), axis=1) * np.linalg.norm(want, axis=1)
        cosine = float(((found * want).sum(axis=1) / norms).min())
        self.worst[head] = max(self.worst[head], float(difference.max()))
        self.worst["cosine"] = min(self.worst["cosine"], cosine)
        assert difference.max() <= limits[head], (
            f"{head}: max {difference.max():.2e}, mean {difference.mean():.2e}"
        )
        assert cosine >= MIN_IMAGE_COSINE


class Worst:
    """The worst figures of many comparisons, printed at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.figures = {"single": 0.0, "multi": 0.0, "cosine": 1.0}

    def add(self, comparison: Comparison) -> None:
        self.count += 1
        for head in ("single", "multi"):
            self.figures[head] = max(self.figures[head], comparison.worst[head])
        self.figures["cosine"] = min(self.figures["cosine"], comparison.worst["cosine"])

    def print(self) -> None:
        shown = ", ".join(f"{key} {value:.9g}" for key, value in self.figures.items())
        print(f"{self.name}, {self.count} checkpoints: largest differences and cosine: {shown}")


@pytest.fixture
def worst(request: pytest.FixtureRequest) -> Iterator[Worst]:
    figures = Worst(request.node.name)
    yield figures
    figures.print()


@examples(15)
@given(data=st.data())
def test_texts_agree_with_pytorch_on_any_checkpoint(
    data: st.DataObject,
    sample_specs: st.SearchStrategy[SampleSpec],
    texts: st.SearchStrategy[str],
    exported: Exported,
    worst: Worst,
) -> None:
    with exported(data.draw(sample_specs, "spec"), data.draw(ADAPTERS, "adapters")) as folders:
        comparison = Comparison(*folders)
        for prompt in ("query", "passage"):
            items = data.draw(st.lists(texts, min_size=1, max_size=6), "texts")
            comparison.check(items, TEXT_LIMITS, prompt)
        worst.add(comparison)


@examples(15)
@given(data=st.data())
def test_images_agree_with_pytorch_on_any_checkpoint(
    data: st.DataObject,
    sample_specs: st.SearchStrategy[SampleSpec],
    images: Images,
    exported: Exported,
    worst: Worst,
) -> None:
    with exported(data.draw(sample_specs, "spec"), data.draw(ADAPTERS, "adapters")) as folders:
        comparison = Comparison(*folders)
        items = data.draw(st.lists(images, min_size=1, max_size=3), "images")
        comparison.check([ImageText((item,)) for item in items], IMAGE_LIMITS)
        worst.add(comparison)


@examples(12)
@given(data=st.data())
def test_images_with_text_and_several_images_agree_with_pytorch_on_any_checkpoint(
    data: st.DataObject,
    sample_specs: st.SearchStrategy[SampleSpec],
    texts: st.SearchStrategy[str],
    images: Images,
    exported: Exported,
    worst: Worst,
) -> None:
    items = st.builds(
        ImageText, st.lists(images, min_size=1, max_size=3).map(tuple), st.none() | texts
    )
    with exported(data.draw(sample_specs, "spec"), data.draw(ADAPTERS, "adapters")) as folders:
        comparison = Comparison(*folders)
        drawn = data.draw(st.lists(items | texts, min_size=1, max_size=3), "items")
        prompt = data.draw(st.sampled_from(("query", "passage")), "prompt")
        comparison.check(drawn, IMAGE_LIMITS, prompt)
        worst.add(comparison)


@pytest.fixture(scope="module")
def tiny(exported: Exported) -> Iterator[Comparison]:
    with exported(changed_spec(SampleSpec.tiny(), {"window_size": 56}), "merged") as folders:
        yield Comparison(*folders)


def grids() -> st.SearchStrategy[tuple[int, int]]:
    """Return (rows, columns) of patches, even, up to 60 each."""
    return st.tuples(st.integers(1, 30), st.integers(1, 30)).map(lambda g: (2 * g[0], 2 * g[1]))


@settings(examples(150))
@given(
    shapes=st.lists(grids(), min_size=1, max_size=4), text=st.none() | st.text("ab ", max_size=9)
)
def test_positions_are_those_of_get_rope_index(
    tiny: Comparison, shapes: list[tuple[int, int]], text: str | None
) -> None:
    tokenizer = TextTokenizer(tiny.embedder.bundle.path("tokenizer.json"))
    ids = None if text is None else tokenizer.encode([f"Query: {text}"])[0]
    form = patch_format(tiny.model.image, tiny.model.vision)
    size = form.patch_size
    images = [
        ImagePatches(np.zeros((rows * size, columns * size, 3), np.uint8), form)
        for rows, columns in shapes
    ]
    sequence = image_sequence(images, ids, tokenizer.scaffold, tiny.model.token_ids, 2)
    want, _ = tiny.torch.model.get_rope_index(
        torch.tensor(sequence.token_ids)[None], torch.tensor([(1, *grid) for grid in shapes])
    )
    np.testing.assert_array_equal(sequence.positions, want[:, 0].numpy())
    pads = np.flatnonzero(sequence.token_ids == tiny.model.token_ids.image_pad)
    np.testing.assert_array_equal(sequence.image_slots, pads)


@settings(examples(150))
@given(grid=grids(), side=st.integers(1, 6))
def test_windows_are_those_of_get_window_index(
    tiny: Comparison, grid: tuple[int, int], side: int
) -> None:
    visual = tiny.torch.model.visual
    before = visual.window_size
    visual.window_size = side * 28
    try:
        index, bounds = visual.get_window_index(torch.tensor([(1, *grid)]))
    finally:
        visual.window_size = before
    vision = dataclasses.replace(tiny.model.vision, window_size=side * 28)
    order, sizes = window_order(grid, vision)
    np.testing.assert_array_equal(order, index.numpy())
    np.testing.assert_array_equal(4 * np.cumsum([0, *sizes]), np.unique(bounds))


@pytest.mark.parametrize("length", [1, 4096, 32_768, 128_000])
def test_rotary_tables_are_those_of_the_published_decoder(tiny: Comparison, length: int) -> None:
    positions = np.random.default_rng(length).integers(0, length, (3, 500))
    cos, sin = rope_tables(positions, tiny.model.decoder)
    rotary = tiny.torch.model.language_model.rotary_emb
    tables = rotary(torch.zeros(1), torch.tensor(positions)[:, None])
    half = tiny.model.decoder.head_dim // 2
    axis = np.repeat(np.arange(3), tiny.model.decoder.mrope_section)
    for found, table in zip((cos, sin), tables, strict=True):
        want = table.numpy()[axis, 0, :, np.arange(half)].T
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-7)


def published_patches(
    pixels: NDArray[np.uint8], image: ImageConfig, vision: VisionConfig
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return the patches and the grid of one image by PyTorch's own resize, as published."""
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    factor, (height, width) = patch * merge, pixels.shape[:2]
    size = [round(side / factor) * factor for side in (height, width)]
    if prod(size) > image.max_pixels:
        beta = sqrt(height * width / image.max_pixels)
        size = [max(factor, floor(s / beta / factor) * factor) for s in (height, width)]
    elif prod(size) < image.min_pixels:
        beta = sqrt(image.min_pixels / (height * width))
        size = [ceil(side * beta / factor) * factor for side in (height, width)]
    tensor = torch.tensor(pixels).permute(2, 0, 1)[None]
    if list(pixels.shape[:2]) != size:
        tensor = torch.nn.functional.interpolate(tensor, size, mode="bicubic", antialias=True)
    scale = 1.0 / image.rescale_factor
    mean, std = (torch.tensor(v, dtype=torch.float32) * scale for v in (image.mean, image.std))
    tensor = (tensor[0].float() - mean[:, None, None]) / std[:, None, None]
    rows, columns = (side // patch for side in size)
    blocks = tensor.expand(frames, -1, -1, -1).reshape(
        1, frames, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    flat = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1)
    return flat.numpy(), (rows, columns)


@settings(examples(150))
@given(
    sizes=st.sampled_from(((14, 2, 2), (14, 2, 2), (16, 2, 1), (8, 3, 3), (10, 1, 2))),
    limits=st.tuples(st.integers(1, 9), st.integers(1, 300)),
    data=st.data(),
)
def test_patches_are_the_published_ones(
    tiny: Comparison,
    sizes: tuple[int, int, int],
    limits: tuple[int, int],
    data: st.DataObject,
    images: Images,
) -> None:
    patch, merge, frames = sizes
    vision = dataclasses.replace(
        tiny.model.vision, patch_size=patch, spatial_merge_size=merge, temporal_patch_size=frames
    )
    unit = (patch * merge) ** 2
    image = dataclasses.replace(
        tiny.model.image, min_pixels=unit * limits[0], max_pixels=unit * sum(limits)
    )
    pixels = data.draw(images, "image")
    found = patch_image(pixels, image, vision, image.max_pixels)
    want, grid = published_patches(pixels, image, vision)
    assert found.grid == grid
    np.testing.assert_array_equal(found.patches, want)


@pytest.mark.parametrize("text", [None, "ein Fuß", ""])
@pytest.mark.parametrize("num_images", [1, 3])
def test_token_ids_and_pooled_spans_are_those_of_the_published_prompt(
    tiny: Comparison,
    image: Callable[[int, int, str], NDArray[np.uint8]],
    num_images: int,
    text: str | None,
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny.embedder.bundle.path("tokenizer.json")))
    pixels = tuple(image(60 + 40 * n, 90, "noise") for n in range(num_images))
    (sequence,) = tiny.sequences([ImageText(pixels, text)], "retrieval", "passage")
    spans = "".join(
        f"<|vision_start|>{'<|image_pad|>' * (prod(image.grid) // 4)}<|vision_end|>"
        for image in sequence.images
    )
    words = "Describe the image." if text is None else f"Passage: {text}"
    head, tail = "<|im_start|>user\n", "<|im_end|>\n"
    assert sequence.token_ids.tolist() == tokenizer.encode(head + spans + words + tail).ids
    before = len(tokenizer.encode(head))
    after = len(tokenizer.encode(tail if text is not None else words + tail))
    pooled = np.arange(before, len(sequence) - after)
    np.testing.assert_array_equal(np.flatnonzero(sequence.pooled), pooled)


@pytest.fixture(scope="module")
def small(exported: Exported) -> Iterator[Comparison]:
    """Two narrow heads, so that long inputs take seconds in PyTorch too."""
    spec = changed_spec(
        SampleSpec.tiny(),
        {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "tasks": ("retrieval",)},
    )
    with exported(spec, "merged") as folders:
        yield Comparison(*folders)


@pytest.mark.slow
def test_the_longest_text_agrees_with_pytorch(small: Comparison) -> None:
    text = "The quick brown fox über 東京 12345 🚀. " * 3000
    found = small.embedder.encode([text], "retrieval")
    assert found.num_tokens.tolist() == [32_768]
    assert found.truncated.tolist() == [True]
    (sequence,) = small.sequences([text], "retrieval")
    assert len(sequence) == 32_768
    small.check([text], TEXT_LIMITS)
    print(small.worst)


@pytest.mark.slow
@pytest.mark.parametrize("max_pixels", [None, 3_000_000])
def test_a_image_of_twenty_megapixels_agrees_with_pytorch(
    small: Comparison,
    image: Callable[[int, int, str], NDArray[np.uint8]],
    max_pixels: int | None,
) -> None:
    items = [ImageText((image(4000, 5000, "gradient"),))]
    (sequence,) = small.sequences(items, "retrieval", max_pixels=max_pixels)
    pixels = prod(sequence.images[0].grid) * 14**2
    limit = max_pixels or small.model.image.max_pixels
    assert 0.9 * limit < pixels <= limit
    small.check(items, IMAGE_LIMITS, max_pixels=max_pixels)
    print(f"{pixels} pixels: {small.worst}")
