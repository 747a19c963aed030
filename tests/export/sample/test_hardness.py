"""Hard sample checkpoints: the magnitudes are where they should be, and the vectors still tell."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.commands import sample_checkpoint as command
from trine.export.reference.model import Reference, ReferenceInput, ReferenceVectors
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.edits import Edit, apply_edits
from trine.export.sample.spec import HARD_TRAITS, HardTrait, SampleSpec, changed_spec
from trine.runtime.adapters.peft import PeftAdapters
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import CheckpointError, InputError
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import check_request

Array = NDArray[np.float32]

TINY = SampleSpec.tiny()
TEXTS = (
    "Which inverter warranty covers panels that face east?",
    "def area(r):\n    return 3.14159 * r * r",
    "Straße 7, 東京 – 🚀 café",
    "a",
    "Where is the library? It is near the station, and the weather is fine; we go to the park.",
)
FLOAT16_MAX = 65504.0


class _Seen:
    """Rows of inputs, outputs and hidden states by module, of all sequences."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Array]] = {}
        self.outputs: dict[str, list[Array]] = {}

    def see(self, module: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        self.inputs[module] = [rows.reshape(-1, rows.shape[-1]) for rows in inputs]
        self.outputs[module] = [rows.reshape(-1, rows.shape[-1]).copy() for rows in outputs]


@dataclass(frozen=True)
class _Run:
    seen: _Seen
    vectors: list[ReferenceVectors]
    embedded: list[Array]

    def largest(self, module: str) -> Array:
        """Return the largest magnitude of each input channel of a module, ascending."""
        return np.sort(np.abs(np.concatenate(self.seen.inputs[module])).max(axis=0))

    def texts_after(self, layer: int) -> list[Array]:
        """Return the hidden state of each text after a layer of the decoder, from 0."""
        states = list(self.embedded)
        for done in range(layer + 1):
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                branch = self.seen.outputs[f"layers.{done}.{name}"]
                states = [a + b for a, b in zip(states, branch, strict=False)]
        return states

    def patches_after(self, block: int) -> Array:
        """Return the rows of all images after a block of the vision tower, from 0."""
        states = self.seen.outputs["visual.patch_embed"]
        for done in range(block + 1):
            for name in ("attn.proj", "mlp.down_proj"):
                branch = self.seen.outputs[f"visual.blocks.{done}.{name}"]
                states = [a + b for a, b in zip(states, branch, strict=True)]
        return np.concatenate(states)


def _images() -> list[NDArray[np.uint8]]:
    row, column = np.indices((112, 140))
    gradient = np.stack([row * 2, column, (row + column) // 2], axis=2).astype(np.uint8)
    board = np.repeat(((row // 28 + column // 28) % 2)[..., None], 3, axis=2) * 255
    red = np.full((112, 140, 3), 255, np.uint8)
    red[20:60, 30:100] = (230, 20, 30)
    noise = np.random.default_rng(0).integers(0, 256, (112, 140, 3), np.uint8)
    return [gradient, board.astype(np.uint8), red, noise]


def _run(spec: SampleSpec, folder: Path) -> _Run:
    write_sample_checkpoint(spec, folder)
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    preprocessor = Preprocessor(config, TextTokenizer(folder / "tokenizer.json"))
    items = [*TEXTS, *(ImageText((image,)) for image in _images())]
    request = check_request(config.tasks, config, num_items=len(items), task="retrieval")
    sequences = list(preprocessor.sequences(items, request))
    seen = _Seen()
    reference = Reference(
        checkpoint, PeftAdapters(folder / "adapters", config, config.tasks), observer=seen
    )
    vectors = reference.run([ReferenceInput(sequence, "retrieval") for sequence in sequences])
    file = TensorFile(folder / "model.safetensors", CheckpointError)
    table = file.float32("model.embed_tokens.weight")
    embedded = [table[sequence.token_ids] for sequence in sequences[: len(TEXTS)]]
    return _Run(seen, vectors, embedded)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Run]:
    folder = tmp_path_factory.mktemp("hard")
    chosen: dict[str, tuple[HardTrait, ...]] = {trait: (trait,) for trait in HARD_TRAITS}
    chosen |= {"none": (), "all": HARD_TRAITS}
    return {name: _run(replace(TINY, hard=hard), folder / name) for name, hard in chosen.items()}


def _rms(rows: Array) -> Array:
    return np.sqrt(np.square(rows).mean(axis=-1))


def test_without_a_trait_nothing_is_large(runs: dict[str, _Run]) -> None:
    seen = runs["none"].seen
    largest = max(np.abs(rows).max() for parts in seen.inputs.values() for rows in parts)
    assert largest < 12


@pytest.mark.parametrize("name", ["swiglu", "all"])
@pytest.mark.parametrize("module", ["layers.1.mlp.down_proj", "visual.blocks.1.mlp.down_proj"])
def test_swiglu_channels_reach_thousands_and_beyond_float16(
    runs: dict[str, _Run], name: str, module: str
) -> None:
    channels = runs[name].largest(module)
    assert channels[-1] > 5e4
    assert channels[-2] > 4e2
    assert np.median(channels) < 100


def test_swiglu_channels_show_in_the_output_without_drowning_it(runs: dict[str, _Run]) -> None:
    for module in ("layers.1.mlp.down_proj", "visual.blocks.1.mlp.down_proj"):
        hard, plain = (
            float(np.median(_rms(np.concatenate(runs[name].seen.outputs[module]))))
            for name in ("swiglu", "none")
        )
        assert 1.02 * plain < hard < 3 * plain


@pytest.mark.parametrize("name", ["residual", "all"])
def test_residual_channels_are_tens_of_times_the_others(runs: dict[str, _Run], name: str) -> None:
    states = [state[1:] for state in runs[name].texts_after(0)]  # the first token has its own trait
    channels = np.sort(np.median(np.abs(np.concatenate(states)), axis=0))
    assert channels[-1] > 50 * np.median(channels)
    assert channels[-2] < 10 * np.median(channels)
    channels = np.sort(np.median(np.abs(runs[name].patches_after(0)), axis=0))
    assert channels[-1] > 50 * np.median(channels)


def test_residual_channels_still_stand_out_behind_the_norms(runs: dict[str, _Run]) -> None:
    channels = np.sort(
        np.median(
            np.abs(np.concatenate(runs["residual"].seen.inputs["layers.1.self_attn.q_proj"])),
            axis=0,
        )
    )
    assert channels[-1] > 3 * np.median(channels)


@pytest.mark.parametrize("name", ["first-token", "all"])
def test_the_first_token_is_a_hundred_times_the_others(runs: dict[str, _Run], name: str) -> None:
    for layer in range(TINY.num_layers):
        for state in runs[name].texts_after(layer):
            sizes = _rms(state)
            assert sizes[0] > 100 * np.median(sizes[1:])
    product = runs[name].seen.inputs["layers.0.mlp.down_proj"]
    assert all(3e3 < np.abs(rows[0]).max() < FLOAT16_MAX for rows in product)
    assert all(np.abs(rows[1:]).max() < 200 for rows in product)


def test_images_have_the_large_first_token_too(runs: dict[str, _Run]) -> None:
    product = runs["first-token"].seen.inputs["layers.0.mlp.down_proj"]
    assert len(product) == len(TEXTS) + len(_images())


def test_key_biases_are_a_hundred(runs: dict[str, _Run]) -> None:
    for layer in range(TINY.num_layers):
        keys = np.concatenate(runs["k-bias"].seen.outputs[f"layers.{layer}.self_attn.k_proj"])
        middle = np.abs(np.median(keys, axis=0))
        assert np.count_nonzero((middle > 90) & (middle < 110)) >= 2 * TINY.num_kv_heads
        assert np.count_nonzero(middle > 20) < middle.size / 2


@pytest.mark.parametrize("name", ["patch-spike", "all"])
def test_some_patches_spike_beyond_float16(runs: dict[str, _Run], name: str) -> None:
    rows = np.abs(runs[name].patches_after(TINY.vision_depth - 1)).max(axis=1)
    assert 0.01 < np.mean(rows > FLOAT16_MAX) < 0.2
    assert np.median(rows) < 100


@pytest.mark.parametrize("name", [*HARD_TRAITS, "all"])
def test_vectors_are_finite_and_differ_from_input_to_input(
    runs: dict[str, _Run], name: str
) -> None:
    single = np.stack([vectors.single for vectors in runs[name].vectors])
    assert np.isfinite(single).all()
    cosines = single @ single.T
    np.fill_diagonal(cosines, -1)
    assert cosines.max() < 0.97
    for vectors in runs[name].vectors:
        between = vectors.multi @ vectors.multi.T
        assert np.median(between[~np.eye(len(between), dtype=bool)]) < 0.8


def test_a_trait_changes_its_tensors_and_no_others(tmp_path: Path) -> None:
    tensors = []
    traits: tuple[tuple[HardTrait, ...], ...] = ((), ("k-bias",))
    for chosen in traits:
        folder = tmp_path / f"sample{len(chosen)}"
        write_sample_checkpoint(replace(TINY, hard=chosen), folder)
        file = TensorFile(folder / "model.safetensors", CheckpointError)
        tensors.append({name: file.float32(name) for name in file.tensors})
    changed = [
        name for name in tensors[0] if not np.array_equal(tensors[0][name], tensors[1][name])
    ]
    assert changed == [f"model.layers.{layer}.self_attn.k_proj.bias" for layer in range(2)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_stay_finite_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    spec = changed_spec(TINY, {"hard": HARD_TRAITS, "dtype": dtype, "num_layers": 5})
    write_sample_checkpoint(spec, tmp_path / "sample")
    for path in tmp_path.rglob("*.safetensors"):
        file = TensorFile(path, CheckpointError)
        assert all(np.isfinite(file.float32(name)).all() for name in file.tensors)


def test_widths_too_small_for_outliers_are_refused() -> None:
    with pytest.raises(InputError, match="vision_intermediate_size is 8, a hard checkpoint needs"):
        replace(TINY, hard=("swiglu",), vision_intermediate_size=8)


def test_unknown_and_repeated_traits_are_refused() -> None:
    with pytest.raises(InputError, match=r"hard has \['soft', 'soft'\], choose of .* once"):
        changed_spec(TINY, {"hard": ("soft", "soft")})


@pytest.mark.parametrize(
    ("flag", "traits"), [("all", HARD_TRAITS), ("k-bias, swiglu", ("k-bias", "swiglu"))]
)
def test_the_command_takes_traits(tmp_path: Path, flag: str, traits: tuple[HardTrait, ...]) -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    arguments = parser.parse_args(["sample-checkpoint", str(tmp_path / "made"), "--hard", flag])
    assert arguments.run(arguments) == 0
    write_sample_checkpoint(replace(TINY, hard=traits), tmp_path / "wanted")
    made, wanted = (tmp_path / name / "model.safetensors" for name in ("made", "wanted"))
    assert made.read_bytes() == wanted.read_bytes()


@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    block=st.integers(1, 50),
    data=st.data(),
)
def test_edits_of_blocks_are_edits_of_the_whole(
    rows: int, columns: int, block: int, data: st.DataObject
) -> None:
    def places(count: int) -> st.SearchStrategy[tuple[int, ...] | None]:
        some = st.lists(st.integers(0, count - 1), unique=True, min_size=1)
        return st.none() | some.map(tuple)

    numbers = st.sampled_from((-2.0, 0.0, 0.5, 3.0))
    edits = data.draw(
        st.lists(
            st.builds(
                Edit, rows=places(rows), columns=places(columns), factor=numbers, offset=numbers
            ),
            max_size=3,
        )
    )
    values = np.arange(rows * columns, dtype=np.float32)
    wanted = values.reshape(rows, columns).copy()
    for edit in edits:
        chosen = np.ix_(
            range(rows) if edit.rows is None else edit.rows,
            range(columns) if edit.columns is None else edit.columns,
        )
        wanted[chosen] = wanted[chosen] * edit.factor + edit.offset
    for start in range(0, values.size, block):
        apply_edits(values[start : start + block], start, columns, edits)
    np.testing.assert_array_equal(values, wanted.ravel())
