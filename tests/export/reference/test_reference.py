"""The numpy reference: against the published vectors, and against the engine on odd checkpoints."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.reference.model import Reference, ReferenceInput, ReferenceVectors
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText, Item
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

Exported = Callable[[SampleSpec, str], AbstractContextManager[tuple[Path, Path]]]
MakeImage = Callable[[int, int, str], NDArray[np.uint8]]

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
#: Largest difference of single vectors and of multi-vectors.
MAX_SINGLE, MAX_MULTI = 5e-6, 5e-5
#: Where an export puts the adapters: into each task's decoder, or beside one decoder.
ADAPTERS = st.sampled_from(("merged", "runtime"))

#: Numbers the published model does not have, by what is odd about them.
ODD_DECODERS: dict[str, dict[str, object]] = {
    "one head": {"num_heads": 1, "num_kv_heads": 1},
    "one KV head": {"num_kv_heads": 1},
    "heads of 36": {"hidden_size": 108, "num_heads": 3, "num_kv_heads": 3},
    "heads of 100": {"hidden_size": 200, "num_heads": 2, "num_kv_heads": 1},
    "heads of 34, not of whole fours": {"hidden_size": 68, "num_heads": 2, "num_kv_heads": 2},
    "heads of 2 pairs short of 128": {"hidden_size": 248, "num_heads": 2},
    "uneven sections": {"mrope_section": (1, 1, 6)},
    "one layer of each": {"num_layers": 1, "vision_depth": 1},
    "an inner layer of one": {"intermediate_size": 1, "vision_intermediate_size": 1},
    "one task named like a graph": {"tasks": ("vision",)},
    "four tasks": {"tasks": ("default", "text-matching", "A", "a1")},
    "rank one": {"rank": 1, "alpha": 3},
    "ranks and alphas by pattern": {
        "rank_pattern": (("q_proj", 9), (r"layers\.1\.mlp\..*", 2), ("multi_vector_projector", 7)),
        "alpha_pattern": (("down_proj", 1), (r"layers\.0\..*", 5), ("multi_vector_projector", 13)),
    },
    "a projector of one": {"projector_dim": 1},
    "float16": {"dtype": "float16"},
    "float32, resaved, five shards": {
        "dtype": "float32",
        "key_spelling": "resaved",
        "num_shards": 5,
    },
    "no spare ids": {"first_special_id": 256, "vocab_size": 270},
    "a small rotary base": {"rope_theta": 100.0, "rms_norm_eps": 1e-2},
}
#: The same of the vision tower, which has no adapters.
ODD_TOWERS: dict[str, dict[str, object]] = {
    "no full attention": {"vision_depth": 3, "full_attention_blocks": ()},
    "full attention only": {"vision_depth": 3, "full_attention_blocks": (0, 1, 2)},
    "full attention first": {"vision_depth": 3, "full_attention_blocks": (0,)},
    "windows of one token": {"window_size": 28},
    "windows of 56": {"window_size": 56},
    "windows larger than images": {"window_size": 2800},
    "vision heads of 4": {"vision_heads": 8},
    "vision heads of 20": {"vision_hidden_size": 60, "vision_heads": 3},
    "patches of 8, merged by three": {
        "patch_size": 8,
        "spatial_merge_size": 3,
        "window_size": 96,
        "min_pixels": 576,
    },
    "patches not merged": {"spatial_merge_size": 1, "window_size": 42},
    "one frame": {"temporal_patch_size": 1},
}
CASES = [
    *((changes, "merged", name) for name, changes in (ODD_DECODERS | ODD_TOWERS).items()),
    *((changes, "runtime", name) for name, changes in ODD_DECODERS.items()),
]


def vectors_of(
    reference: Reference, preprocessor: Preprocessor, embedder: Embedder, items: Sequence[Item]
) -> list[list[ReferenceVectors]]:
    """Return, for each task, the reference's vectors of `items`."""
    tasks, model = embedder.tasks, embedder.bundle.manifest.model
    inputs = []
    for task in tasks:
        request = check_request(tasks, model, num_items=len(items), task=task)
        sequences = preprocessor.sequences(items, request)
        inputs += [ReferenceInput(sequence, task) for sequence in sequences]
    found = reference.run(inputs)
    return [found[start : start + len(items)] for start in range(0, len(found), len(items))]


def check(folders: tuple[Path, Path], items: Sequence[Item]) -> tuple[float, float]:
    """Compare the engine with the reference; return the largest single and multi difference."""
    checkpoint = Checkpoint(folders[0])
    adapters = PeftAdapters(folders[0] / "adapters", checkpoint.config, checkpoint.config.tasks)
    embedder = Embedder.load(folders[1], threads=1)
    preprocessor = Preprocessor(checkpoint.config, TextTokenizer(folders[1] / "tokenizer.json"))
    single = multi = 0.0
    wanted = vectors_of(Reference(checkpoint, adapters), preprocessor, embedder, items)
    tasks = [task for task in embedder.tasks for _ in items]
    found = embedder.encode([*items] * len(wanted), tasks, return_multivector=True)
    for row, want in enumerate(vectors for of_task in wanted for vectors in of_task):
        assert found.multi[row].shape == want.multi.shape
        single = max(single, float(np.abs(found.single[row] - want.single).max()))
        multi = max(multi, float(np.abs(found.multi[row] - want.multi).max()))
    assert single <= MAX_SINGLE
    assert multi <= MAX_MULTI
    return single, multi


@pytest.mark.parametrize(
    ("changes", "adapters"),
    [pytest.param(*case, id=f"{name}, {case[1]}") for *case, name in CASES],
)
def test_engine_agrees_with_the_reference_on_odd_checkpoints(
    changes: dict[str, object], adapters: str, exported: Exported, image: MakeImage
) -> None:
    items: list[Item] = [
        "",
        "Where is Straße 7, 東京? <|image_pad|>" * 3,
        ImageText((image(1, 1, "noise"),)),
        ImageText((image(100, 230, "gradient"),)),
        ImageText((image(20, 300, "noise"), image(150, 90, "noise")), "both 🚀"),
    ]
    with exported(changed_spec(SampleSpec.tiny(), changes), adapters) as folders:
        print(check(folders, items))


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_engine_agrees_with_the_reference_on_any_checkpoint(
    data: st.DataObject,
    sample_specs: st.SearchStrategy[SampleSpec],
    texts: st.SearchStrategy[str],
    images: st.SearchStrategy[NDArray[np.uint8]],
    exported: Exported,
) -> None:
    items = data.draw(st.lists(texts, min_size=1, max_size=3), "texts")
    images = data.draw(st.lists(images, min_size=1, max_size=2), "images")
    with exported(data.draw(sample_specs, "spec"), data.draw(ADAPTERS, "adapters")) as folders:
        check(folders, [*items, *(ImageText((image,)) for image in images)])


@pytest.fixture(scope="module")
def golden() -> tuple[Checkpoint, Reference, Preprocessor]:
    folder = GOLDEN / "checkpoint"
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    reference = Reference(checkpoint, PeftAdapters(folder / "adapters", config, config.tasks))
    tokenizer = TextTokenizer(folder / "tokenizer.json")
    return checkpoint, reference, Preprocessor(config, tokenizer)


@pytest.fixture(scope="module")
def published() -> dict[str, NDArray[np.generic]]:
    with np.load(GOLDEN / "reference.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_reference_gives_the_published_vectors(
    golden: tuple[Checkpoint, Reference, Preprocessor],
    published: dict[str, NDArray[np.generic]],
) -> None:
    checkpoint, reference, preprocessor = golden
    texts = json.loads((GOLDEN / "texts.json").read_text())
    heads = [
        key.removesuffix("/single")
        for key in published
        if key.startswith(("text/", "image/")) and key.endswith("/single")
    ]
    keys, inputs = [], []
    for key in heads:
        kind, name, task, *rest = key.split("/")
        item: Item = texts[int(name)] if kind == "text" else ImageText((GOLDEN / "images" / name,))
        request = check_request(
            checkpoint.config.tasks,
            checkpoint.config,
            num_items=1,
            task=task,
            prompt_name=rest[0] if rest else None,
        )
        (sequence,) = preprocessor.sequences([item], request)
        if len(sequence) <= 700:  # plain numpy holds all scores at once
            keys.append(key)
            inputs.append(ReferenceInput(sequence, task))
    assert {key.split("/")[0] for key in keys} == {"text", "image"}
    worst: dict[str, float] = {}
    for key, found in zip(keys, reference.run(inputs), strict=True):
        for head, have in (("single", found.single), ("multi", found.multi)):
            want = published[f"{key}/{head}"].astype(np.float64)
            place = f"{key.split('/')[0]} {head}"
            worst[place] = max(worst.get(place, 0.0), float(np.abs(have - want).max()))
    print(f"{len(keys)} inputs, largest differences {worst}")
    assert worst["text single"] <= MAX_SINGLE
    assert worst["text multi"] <= MAX_MULTI
    assert worst["image single"] <= 1e-4
    assert worst["image multi"] <= 5e-4


def test_each_input_is_embedded_for_itself(
    golden: tuple[Checkpoint, Reference, Preprocessor], image: MakeImage
) -> None:
    checkpoint, reference, preprocessor = golden
    items: list[Item] = ["one text", ImageText((image(60, 90, "noise"),)), "another, longer text"]
    request = check_request(
        checkpoint.config.tasks, checkpoint.config, num_items=3, task="retrieval"
    )
    inputs = [
        ReferenceInput(sequence, task)
        for sequence, task in zip(
            preprocessor.sequences(items, request), ("retrieval", "code", "code"), strict=True
        )
    ]
    for item, together in zip(inputs, reference.run(inputs), strict=True):
        (alone,) = reference.run([item])
        np.testing.assert_allclose(alone.single, together.single, rtol=0, atol=MAX_SINGLE)
        np.testing.assert_allclose(alone.multi, together.multi, rtol=0, atol=MAX_SINGLE)


def test_progress_counts_every_layer_once(
    golden: tuple[Checkpoint, Reference, Preprocessor], image: MakeImage
) -> None:
    checkpoint, reference, preprocessor = golden
    config = checkpoint.config
    request = check_request(config.tasks, config, num_items=1, task="code")
    for item, expected in (
        ("text", config.decoder.num_layers),
        (
            ImageText((image(30, 30, "noise"),)),
            config.decoder.num_layers + config.vision.depth,
        ),
    ):
        steps: list[int] = []
        (sequence,) = preprocessor.sequences([item], request)
        reference.run([ReferenceInput(sequence, "code")], steps.append)
        assert sum(steps) == expected
