"""The `tensorrt` engine from end to end on the simulated GPU, against the engine of the CPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.engines.gpu.simulated_gpu import SimulatedDevice
from tests.runtime.engines.gpu.simulated_tensorrt import SimulatedDrivers
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.embedder import Embedder
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.gpu.opening import open_gpu_engine
from trine.runtime.errors import EngineError
from trine.runtime.inference.runner import BatchLimits
from trine.runtime.inputs import ImageText, Item
from trine.runtime.outputs import Embeddings
from trine.runtime.request import check_request

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "it",
    "rains",
    "on",
    "the",
    "old",
    "town",
]
TASKS = ("retrieval", "text-matching", "code")
MakeBundle = Callable[..., Path]


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    source = np.random.default_rng(seed)
    return [
        " ".join(source.choice(WORDS, int(length)).tolist())
        for length in source.integers(1, longest, count)
    ]


def image(height: int, width: int, seed: int = 0) -> ImageText:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return ImageText((pixels,))


def load(
    folder: Path,
    drivers: SimulatedDrivers,
    *,
    limits: BatchLimits | None = None,
    tasks: tuple[str, ...] = TASKS,
    cuda_graphs: bool = True,
) -> Embedder:
    bundle = open_bundle(folder)
    entry = bundle.engine("tensorrt")
    options = EngineOptions(threads=None, tasks=tasks, cuda_graphs=cuda_graphs)
    engine = open_gpu_engine(bundle, entry, options, drivers)
    return Embedder(bundle, entry, engine, limits or BatchLimits(), self_test=False)


def embed(embedder: Embedder, items: Sequence[Item], task: str | list[str]) -> Embeddings:
    return embedder.encode(items, task, return_multivector=True)


def worst(have: Embeddings, want: Embeddings) -> tuple[float, float]:
    """Return the worst cosine of a vector, and the largest difference of one number."""
    assert have.single is not None
    assert have.multi is not None
    assert want.single is not None
    assert want.multi is not None
    pairs: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = [
        (have.single, want.single),
        *zip(have.multi, want.multi, strict=True),
    ]
    cosine, difference = 1.0, 0.0
    for x, y in pairs:
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        cosine = min(cosine, float((a * b).sum(axis=1).min()))
        difference = max(difference, float(np.abs(a - b).max()))
    return cosine, difference


@pytest.mark.parametrize("kernels", [True, False], ids=["heads on device", "heads on host"])
@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_vectors_equal_those_of_the_cpu(make_bundle: MakeBundle, mode: str, kernels: bool) -> None:
    folder = make_bundle(mode=mode, kernels=kernels)
    drivers = SimulatedDrivers()
    gpu = load(folder, drivers)
    cpu = Embedder.load(folder, engine="auto")
    items = [*texts(14, 40), image(84, 112), image(112, 84, 1), "", image(140, 28, 2)]
    tasks = [TASKS[i % 3] for i in range(len(items))]
    cosine, difference = worst(embed(gpu, items, tasks), embed(cpu, items, tasks))
    print(f"{mode}, kernels {kernels}: cosine {cosine:.8f}, difference {difference:.1e}")
    assert cosine >= 0.999999
    assert difference <= 2e-5
    assert bool(drivers.kernel_driver.launched) == kernels
    assert drivers.simulated.idle


def test_a_graph_in_16_bits_stays_within_its_floor(make_bundle: MakeBundle) -> None:
    folder = make_bundle(half="fp16")
    gpu, cpu = load(folder, SimulatedDrivers()), Embedder.load(folder)
    items = [*texts(10, 30), image(112, 112)]
    cosine, _ = worst(embed(gpu, items, "code"), embed(cpu, items, "code"))
    print(f"fp16: worst cosine {cosine:.6f}")
    assert cosine >= 0.9995


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_vectors_do_not_depend_on_the_batch_padding_or_graphs(
    make_bundle: MakeBundle, mode: str
) -> None:
    folder = make_bundle(mode=mode)
    items = texts(12, 60, seed=3)
    together = embed(load(folder, SimulatedDrivers()), items, "retrieval")
    alone = load(folder, SimulatedDrivers(), cuda_graphs=False)
    for index, item in enumerate(items):
        single = embed(alone, [item], "retrieval")
        assert single.single is not None
        assert together.single is not None
        difference = np.abs(single.single[0] - together.single[index]).max()
        assert difference <= 2e-5, f"item {index}: {difference}"


def test_a_run_larger_than_every_bucket_is_taken_apart(make_bundle: MakeBundle) -> None:
    folder = make_bundle(buckets="text=24x2x16,image=256x1")
    drivers = SimulatedDrivers()
    short = texts(9, 6)
    gpu, cpu = load(folder, drivers), Embedder.load(folder)
    _, difference = worst(embed(gpu, short, "retrieval"), embed(cpu, short, "retrieval"))
    assert difference <= 2e-5
    runs = drivers.simulated.calls["enqueue"] + drivers.simulated.calls.get("launch_graph", 0)
    assert runs >= 5


def test_what_no_bucket_holds_is_refused_with_the_command_that_helps(
    make_bundle: MakeBundle,
) -> None:
    folder = make_bundle(buckets="text=24x2x16,image=64x1")
    gpu = load(folder, SimulatedDrivers())
    with pytest.raises(EngineError, match="larger than every bucket of the engine") as refusal:
        gpu.encode(["word " * 40], "retrieval")
    assert f"trine build {folder} --engine trt-fp16 --builder tensorrt --sm 89" in str(
        refusal.value
    )
    assert "--buckets text=" in str(refusal.value)
    with pytest.raises(EngineError, match=r"80 patches.*--buckets image="):
        gpu.encode([image(140, 112)], "retrieval")
    # Nothing is left over that would keep later calls waiting.
    assert gpu.encode(["short"], "retrieval").single is not None


def test_repeated_runs_are_replayed_as_graphs(make_bundle: MakeBundle) -> None:
    drivers = SimulatedDrivers()
    gpu = load(make_bundle(), drivers, tasks=("retrieval",))
    for number in range(8):
        gpu.encode([f"query {number} " + "word " * (number % 5)], "retrieval")
    calls = drivers.simulated.calls
    print(calls)
    # One for each lane that was used; different lengths are one bucket.
    assert 1 <= calls["capture"] <= 2
    assert calls["launch_graph"] >= 8 - calls["capture"]


@pytest.mark.parametrize(
    ("captures_graphs", "cuda_graphs"), [(True, True), (False, False)], ids=["library", "off"]
)
def test_the_engine_captures_nothing_itself(
    make_bundle: MakeBundle, captures_graphs: bool, cuda_graphs: bool
) -> None:
    drivers = SimulatedDrivers(captures_graphs=captures_graphs)
    gpu = load(make_bundle(), drivers, cuda_graphs=cuda_graphs)
    for _ in range(4):
        gpu.encode(["the same query"], "retrieval")
    assert "capture" not in drivers.simulated.calls


def test_buffers_are_made_once(make_bundle: MakeBundle) -> None:
    drivers = SimulatedDrivers()
    gpu = load(make_bundle(), drivers, tasks=("retrieval",))
    items = texts(20, 30)
    for _ in range(2):
        gpu.encode(items, "retrieval", return_multivector=True)
    calls = drivers.simulated.calls
    before = calls["allocate"], calls["allocate_host"]
    for _ in range(3):
        gpu.encode(items, "retrieval", return_multivector=True)
    assert (calls["allocate"], calls["allocate_host"]) == before


@pytest.mark.parametrize("kernels", [True, False], ids=["heads on device", "heads on host"])
def test_only_vectors_are_copied_back(make_bundle: MakeBundle, kernels: bool) -> None:
    drivers = SimulatedDrivers()
    gpu = load(make_bundle(kernels=kernels), drivers, tasks=("code",))
    drivers.simulated.log.clear()
    found = gpu.encode(["one two three four"] * 3, "code", truncate_dim=32)
    copied = [size for kind, size in drivers.simulated.log if kind == "download"]
    hidden = 4 * gpu.bundle.manifest.model.decoder.hidden_size * int(found.num_tokens.sum())
    assert sum(copied) == (3 * 32 * 4 if kernels else hidden)
    assert found.single is not None
    assert found.single.shape == (3, 32)


def test_copies_of_a_run_are_queued_before_the_run_before_it_is_awaited(
    make_bundle: MakeBundle,
) -> None:
    """What makes copies and computing overlap: two runs are queued at once."""
    drivers = SimulatedDrivers()
    gpu = load(make_bundle(), drivers, tasks=("code",), limits=BatchLimits(tokens=48))
    order: list[str] = []
    device = drivers.simulated
    queue, synchronise = device.queue, device.synchronise

    def queued(stream: int, work: Callable[[], None], kind: str) -> None:
        order.append(kind)
        queue(stream, work, kind)

    def awaited(event: int) -> None:
        order.append("await")
        synchronise(event)

    device.queue, device.synchronise = queued, awaited  # type: ignore[method-assign]
    gpu.encode(texts(12, 30), "code")
    # Before the first, buffers of the self-test's runs are waited for.
    kinds = (kind for kind in order if kind in ("download", "await"))
    runs = list(dropwhile(lambda kind: kind == "await", kinds))
    assert runs[:3] == ["download", "download", "await"]


def test_threads_share_the_lanes(make_bundle: MakeBundle) -> None:
    folder = make_bundle(mode="runtime")
    gpu, cpu = (
        load(folder, SimulatedDrivers(), limits=BatchLimits(tokens=64)),
        Embedder.load(folder),
    )
    batches = [texts(7, 30, seed) for seed in range(8)]
    want = [embed(cpu, batch, TASKS[i % 3]) for i, batch in enumerate(batches)]
    with ThreadPoolExecutor(6) as pool:
        have = list(
            pool.map(lambda pair: embed(gpu, pair[1], TASKS[pair[0] % 3]), enumerate(batches))
        )
    assert max(worst(a, b)[1] for a, b in zip(have, want, strict=True)) <= 2e-5


def test_adapters_are_loaded_replaced_and_unloaded_on_the_device(
    make_bundle: MakeBundle,
    tmp_path: Path,
    random_adapter: Callable[..., object],
    write_peft: Callable[..., Path],
) -> None:
    folder = make_bundle(mode="runtime")
    gpu, cpu = load(folder, SimulatedDrivers()), Embedder.load(folder)
    items = texts(6, 30)
    for seed in (1, 2):
        peft = write_peft(tmp_path / f"legal{seed}", ("", random_adapter(8, seed)))
        for embedder in (gpu, cpu):
            embedder.load_adapter("legal", peft)
        tasks = ["legal", "code", "retrieval"] * 2
        assert worst(embed(gpu, items, tasks), embed(cpu, items, tasks))[1] <= 5e-5
    gpu.unload_adapter("legal")
    assert "legal" not in gpu.tasks


def test_hidden_states_are_those_of_the_cpu(make_bundle: MakeBundle) -> None:
    """What late chunking asks for."""
    folder = make_bundle()
    gpu, cpu = load(folder, SimulatedDrivers()), Embedder.load(folder)
    found = []
    for embedder in (gpu, cpu):
        encoder = embedder._encoder
        with encoder.engine.adapters.hold(["code"]) as handles:
            request = check_request(TASKS, encoder.model, num_items=3, task="code")
            sequences = encoder._preprocessor.sequences(["a", "b c d", "e " * 40], request)
            listed = list(sequences)
            rows = encoder._pipeline.hidden_states(listed, [handles["code"]] * 3)
            found.append(dict(rows))
    for index in range(3):
        scale = np.abs(found[1][index]).max()
        assert np.abs(found[0][index] - found[1][index]).max() <= 1e-5 * scale


def test_an_engine_that_fails_in_between_gives_its_lane_back(make_bundle: MakeBundle) -> None:
    drivers = SimulatedDrivers()
    gpu = load(make_bundle(kernels=False), drivers, tasks=("code",))
    launches = drivers.simulated.queue

    def broken(stream: int, work: Callable[[], None], kind: str) -> None:
        if kind == "enqueue":
            raise EngineError("a run was refused: by the test")
        launches(stream, work, kind)

    for _ in range(5):
        drivers.simulated.queue = broken  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="refused: by the test"):
            gpu.encode(["one"], "code")
    drivers.simulated.queue = launches  # type: ignore[method-assign]
    assert gpu.encode(["one"], "code").single is not None


def test_the_description_says_what_runs_where(make_bundle: MakeBundle) -> None:
    gpu = load(make_bundle(), SimulatedDrivers(SimulatedDevice(sm=89)))
    assert gpu.description == (
        "trt-fp16: Simulated TensorRT 11.4.0.106 on GPU 0 (Simulated GPU, sm_89), fp16, heads on "
        "the device, tasks retrieval, text-matching, code"
    )
    host = load(make_bundle(kernels=False), SimulatedDrivers())
    assert "heads on the host (the bundle has no kernels" in host.description


def test_engines_of_another_gpu_are_refused_at_load(make_bundle: MakeBundle) -> None:
    folder = make_bundle(sms=(86, 90))
    with pytest.raises(EngineError, match="was built for sm_86, sm_90, and this GPU is sm_89"):
        load(folder, SimulatedDrivers())


def test_kernels_of_another_gpu_are_refused_at_load(make_bundle: MakeBundle) -> None:
    with pytest.raises(EngineError, match="none of them runs on this GPU of sm 120"):
        load(make_bundle(sms=(120,)), SimulatedDrivers(SimulatedDevice(sm=120)))


def test_the_self_test_holds_for_the_gpu(make_bundle: MakeBundle) -> None:
    bundle = open_bundle(make_bundle())
    entry = bundle.engine("tensorrt")
    options = EngineOptions(threads=None, tasks=TASKS)
    engine = open_gpu_engine(bundle, entry, options, SimulatedDrivers())
    embedder = Embedder(bundle, entry, engine, BatchLimits(), self_test=True)
    embedder.check()
    assert min(deviation.min_cosine for deviation in embedder.deviations("text")) >= 0.99999
