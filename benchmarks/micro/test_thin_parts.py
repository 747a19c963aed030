"""Times the parts around the graphs, each alone, at the published model's sizes.

    pytest benchmarks/micro

Not part of the test run. Asserted is only that what was timed is what was meant.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.kernels.maxsim import maxsim_scores
from trine.kernels.pooling import l2_normalise, mean_rows, project, truncate
from trine.kernels.processors import num_processors
from trine.kernels.quantise import pack_ubinary, quantise_int8, to_float16
from trine.runtime.bundle.model_config import ImageConfig
from trine.runtime.inference.batch_planner import RunCosts, plan_decoder_runs
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.preprocessing.vision_inputs import VisionInputs, lay_out_images, pad_layout

HIDDEN, PROJECTOR = 2048, 128
#: The published vision tower and image processor.
MODEL = sample_model(SampleSpec.full())
VISION = MODEL.vision
IMAGE = ImageConfig(
    min_pixels=3136,
    max_pixels=12_845_056,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rescale_factor=1 / 255,
)


def rows(*shape: int) -> NDArray[np.float32]:
    """Return float32 normal numbers."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_tokenise_1000_texts(benchmark: BenchmarkFixture) -> None:
    tokenizer = TextTokenizer(
        Path(str(files("trine.export"))) / "nano" / "checkpoint" / "tokenizer.json"
    )
    texts = [f"Query: a red circle beside {number} blue squares" for number in range(1000)]
    assert len(benchmark(tokenizer.encode, texts)) == 1000


def test_preprocess_a_image_of_1600_by_1200(benchmark: BenchmarkFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    threads = num_processors()
    buffer = rows(86 * 114, VISION.patch_features)

    def preprocess() -> VisionInputs:
        image = patch_image(pixels, IMAGE, VISION, IMAGE.max_pixels, threads)
        return lay_out_images([image], VISION, buffer, threads)

    assert benchmark(preprocess).patches is buffer


def test_plan_10000_sequences(benchmark: BenchmarkFixture) -> None:
    lengths = np.random.default_rng(0).integers(8, 512, 10_000).tolist()
    costs = RunCosts.of(MODEL.decoder, pads_attention=True)
    runs = benchmark(plan_decoder_runs, lengths, ["retrieval"] * len(lengths), 2048, costs)
    assert sum(len(run) for run in runs) == len(lengths)


def test_pack_1000_sequences(benchmark: BenchmarkFixture) -> None:
    lengths = np.random.default_rng(0).integers(8, 512, 1000)
    _, unpad = benchmark(pad_layout, lengths)
    assert len(unpad) == lengths.sum()


def test_pool_512_tokens(benchmark: BenchmarkFixture) -> None:
    hidden = rows(512, HIDDEN)
    vector = benchmark(lambda: l2_normalise(mean_rows(hidden)))
    assert vector.shape == (HIDDEN,)


def test_project_1030_tokens(benchmark: BenchmarkFixture) -> None:
    hidden, weight, bias = rows(1030, HIDDEN), rows(PROJECTOR, HIDDEN), rows(PROJECTOR)
    assert benchmark(project, hidden, weight, bias).shape == (1030, PROJECTOR)


def test_maxsim_of_a_query_and_100_documents(benchmark: BenchmarkFixture) -> None:
    query, documents = rows(32, PROJECTOR), [rows(1030, PROJECTOR)] * 100
    assert benchmark(maxsim_scores, [query], documents).shape == (1, 100)


def test_truncate_1000_vectors(benchmark: BenchmarkFixture) -> None:
    assert benchmark(truncate, rows(1000, HIDDEN), 256).shape == (1000, 256)


def test_quantise_1000_vectors_to_int8(benchmark: BenchmarkFixture) -> None:
    vectors = l2_normalise(rows(1000, HIDDEN))
    ranges = np.repeat(np.array([[-0.2], [0.2]], np.float32), HIDDEN, axis=1)
    assert benchmark(quantise_int8, vectors, ranges).dtype == np.int8


def test_quantise_1000_vectors_to_float16(benchmark: BenchmarkFixture) -> None:
    assert benchmark(to_float16, l2_normalise(rows(1000, HIDDEN))).dtype == np.float16


def test_quantise_1000_vectors_to_bits(benchmark: BenchmarkFixture) -> None:
    assert benchmark(pack_ubinary, l2_normalise(rows(1000, HIDDEN))).shape == (1000, HIDDEN // 8)
