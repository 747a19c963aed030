"""Names of engines, and what "auto" takes."""

import dataclasses
from pathlib import Path

import pytest

from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.manifest import Builder, BuiltEngine, EngineEntry
from trine.runtime.bundle.precision import EnginePrecision
from trine.runtime.bundle.tuned_settings import TunedSettings, write_tuned
from trine.runtime.embedder import Embedder
from trine.runtime.engines import rates, select
from trine.runtime.engines.gpu.entries import gpu_entries
from trine.runtime.engines.native.entries import misses_kernels
from trine.runtime.engines.select import (
    Host,
    Quality,
    engine_named,
    obstacle_to,
    read_host,
    select_engine,
)
from trine.runtime.errors import BundleError, InputError
from trine.runtime.hardware.cpu import read_cpu


def built(entry: EngineEntry, builder: Builder, version: str, *sms: int) -> EngineEntry:
    made = tuple(
        BuiltEngine(
            graph=graph,
            path=f"{graph}.{builder}.engine",
            key="0" * 64,
            builder=builder,
            version=version,
            sms=sms,
            profiles=(),
            layers=1,
            scratch_bytes=(),
            build_seconds=0.0,
            build_peak_bytes=0,
        )
        for graph in dict.fromkeys((entry.vision, *entry.decoders.values()))
    )
    return dataclasses.replace(entry, built=(*entry.built, *made))


@pytest.fixture
def bundle(golden_bundle: Path) -> Bundle:
    """A bundle whose graphs are listed for TensorRT as well; their files are never opened."""
    opened = open_bundle(golden_bundle)
    listed = opened.manifest.engines
    graphs = dataclasses.replace(
        listed[0], name="trt-bf16", runner="tensorrt", devices=("cuda",), precision="bf16"
    )
    quantised = dataclasses.replace(graphs, name="trt-int8", precision="int8")
    manifest = dataclasses.replace(opened.manifest, engines=(*listed, graphs, quantised))
    return Bundle(opened.folder, manifest)


def with_built(bundle: Bundle, builder: Builder, version: str, *sms: int) -> Bundle:
    engines = tuple(
        built(entry, builder, version, *sms) if entry.runner == "tensorrt" else entry
        for entry in bundle.manifest.engines
    )
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, engines=engines))


@pytest.mark.parametrize(
    ("name", "entry", "runner"),
    [
        ("tensorrt", "trt-bf16", "tensorrt"),
        ("ort_cuda", "trt-bf16", "ort_cuda"),
        ("trt-int8:tensorrt_rtx", "trt-int8", "tensorrt_rtx"),
        ("trt-int8", "trt-int8", "tensorrt"),
        ("ort_cpu", "ort-fp32", "onnxruntime"),
    ],
)
def test_a_name_is_an_entry_and_a_runner(
    bundle: Bundle, name: str, entry: str, runner: str
) -> None:
    found = engine_named(bundle, name)
    assert (found.name, found.runner) == (entry, runner)


def test_graphs_are_run_by_what_built_them(bundle: Bundle) -> None:
    rtx = with_built(bundle, "tensorrt_rtx", "1.7.1", 89)
    assert engine_named(rtx, "trt-int8").runner == "tensorrt_rtx"
    # Asked for by name, another is never put in its place.
    assert engine_named(rtx, "tensorrt").runner == "tensorrt"


def test_the_cuda_provider_takes_no_8_bit_graphs(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no engine 'trt-int8:ort_cuda'"):
        engine_named(bundle, "trt-int8:ort_cuda")


def host(sm: int | str = "no GPU", no_native: str | None = None, **builders: str) -> Host:
    return Host(sm=sm, no_native=no_native, no_cuda="built without CUDA", builders=builders)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "runner"),
    [
        (host(89, tensorrt="11.4.0"), "tensorrt"),
        (host(89, tensorrt="11.3.0"), "onnxruntime"),
        (host(90, tensorrt="11.4.0"), "onnxruntime"),
        (host(89), "onnxruntime"),
        (host("there is no NVIDIA driver", tensorrt="11.4.0"), "onnxruntime"),
    ],
)
def test_auto_takes_a_gpu_where_one_can_run_and_says_why_not(
    bundle: Bundle, machine: Host, runner: str
) -> None:
    found = select_engine(with_built(bundle, "tensorrt", "11.4.0", 89), "auto", machine)
    assert found.entry.runner == runner
    assert (runner == "tensorrt") == (not found.reasons)
    assert all(reason.startswith("not trt-") for reason in found.reasons)


def test_a_named_engine_is_taken_whatever_the_machine(bundle: Bundle) -> None:
    found = select_engine(bundle, "trt-int8", host())
    assert (found.entry.name, found.tuned, found.reasons) == ("trt-int8", None, ())


def tuned_copy(bundle: Bundle, folder: Path, engine: str) -> Bundle:
    cpu = read_cpu()
    settings = TunedSettings(
        processor=cpu.name, cores=cpu.cores, engine=engine, threads=1, batch_tokens=64
    )
    (folder / "tuned").mkdir()
    write_tuned(folder, settings)
    return Bundle(folder, bundle.manifest)


def test_auto_takes_what_was_tuned(bundle: Bundle, tmp_path: Path) -> None:
    tuned = tuned_copy(bundle, tmp_path, "ort-fp32")
    found = select_engine(tuned, "auto", host())
    assert found.tuned is not None
    assert (found.entry.name, found.tuned.threads) == ("ort-fp32", 1)


def test_a_tuned_engine_that_cannot_run_here_is_passed_over_with_a_warning(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = dataclasses.replace(bundle.manifest.engines[0], precision="int8", name="ort-int8")
    int8 = dataclasses.replace(bundle.manifest, engines=(listed,))
    tuned = tuned_copy(Bundle(bundle.folder, int8), tmp_path, "native-int8")
    found = select_engine(tuned, "auto", host(no_native="no kernels were compiled"))
    assert (found.entry.name, found.tuned) == ("ort-int8", None)
    assert "not native-int8, which `trine tune` found: no kernels were compiled" in caplog.text


def test_kernels_that_were_not_compiled_are_missed_where_they_are_faster(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    listed = dataclasses.replace(bundle.manifest.engines[0], precision="int8", name="ort-int8")
    int8 = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, engines=(listed,)))
    machine = dataclasses.replace(host(no_native="they were not compiled"), misses_kernels=True)
    found = select_engine(int8, "auto", machine)
    sentence = "not native-int8, which is faster here: they were not compiled"
    assert (found.entry.name, found.reasons) == ("ort-int8", (sentence,))
    assert caplog.text.count(sentence) == 1
    # What no native kernel runs, and what no kernel would make faster, says nothing.
    select_engine(bundle, "auto", machine)
    select_engine(int8, "auto", host(no_native="this processor has no AVX2"))
    assert caplog.text.count("not native-int8") == 1


@pytest.mark.parametrize(
    ("features", "missed"),
    [
        (("avx2", "avx512f", "avx512_vnni"), True),
        (("avx2",), True),
        (("avx512_vnni", "amx_int8"), False),
        ((), False),
    ],
)
def test_kernels_are_missed_on_processors_that_they_are_for(
    features: tuple[str, ...], missed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trine.kernels.cpu.library.LIBRARY", Path("no_such_library.so"))
    assert misses_kernels(features) == missed


def test_auto_never_builds_while_it_loads(bundle: Bundle) -> None:
    runners = [entry.runner for entry in gpu_entries(bundle.manifest.engines)]
    assert runners == ["ort_cuda"]


@pytest.mark.parametrize("name", ["ort_tensorrt", "trt-bf16:ort_tensorrt"])
def test_the_runner_that_was_taken_out_names_what_to_use_instead(bundle: Bundle, name: str) -> None:
    with pytest.raises(BundleError, match=r"is no more: .*; use 'tensorrt' or 'tensorrt_rtx'"):
        engine_named(bundle, name)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a driver is here")
def test_without_a_gpu_its_engines_say_so(bundle: Bundle) -> None:
    here = read_host(bundle, 0)
    assert obstacle_to(bundle, engine_named(bundle, "ort_cpu"), here) is None
    problem = obstacle_to(bundle, engine_named(bundle, "tensorrt"), here)
    assert problem is not None
    assert "no NVIDIA driver" in problem


def test_devices_are_numbered_from_0(golden_bundle: Path) -> None:
    with pytest.raises(InputError, match="device is -1; GPUs are numbered from 0"):
        Embedder.load(golden_bundle, device=-1)


PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "bf16", "int8")


@pytest.fixture
def precisions(bundle: Bundle) -> Bundle:
    """A bundle that lists an engine of ONNX Runtime for each of `PRECISIONS`, float32 first."""
    listed = tuple(
        dataclasses.replace(
            bundle.manifest.engines[0],
            name=f"ort-{precision}",
            precision=precision,
            devices=("cuda",) if precision == "bf16" else ("cpu",),
        )
        for precision in PRECISIONS
    )
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, engines=listed))


@pytest.mark.parametrize(
    ("kind", "quality", "engine"),
    [
        ("avx2", "lossless", "ort-fp32"),
        ("avx2", "high", "native-bf16"),
        ("avx2", "fast", "native-int8"),
        ("amx", "fast", "native-int8"),
        ("amx", "high", "native-bf16"),
        (rates.TILES_UNUSED, "high", "native-bf16"),
        ("portable", "fast", "ort-int8"),
        ("neon_i8mm", "fast", "ort-int8"),
    ],
)
def test_quality_takes_the_fastest_engine_that_keeps_it(
    precisions: Bundle, monkeypatch: pytest.MonkeyPatch, kind: str, quality: Quality, engine: str
) -> None:
    monkeypatch.setattr(select, "kind_of_processor", lambda: kind)
    assert select_engine(precisions, "auto", host(), quality).entry.name == engine


def test_without_a_quality_the_first_precision_is_kept(precisions: Bundle) -> None:
    assert select_engine(precisions, "auto", host()).entry.name == "ort-fp32"


def test_without_kernels_only_onnx_runtimes_engines_keep_a_quality(precisions: Bundle) -> None:
    machine = host(no_native="they were not compiled")
    assert select_engine(precisions, "auto", machine, "high").entry.name == "ort-fp32"
    assert select_engine(precisions, "auto", machine, "fast").entry.name == "ort-int8"


def test_what_was_measured_comes_before_the_order(precisions: Bundle) -> None:
    entries = [engine_named(precisions, name) for name in ("native-int8", "ort-int8")]
    for kind, fast in ((rates.TILES_UNUSED, "ort-int8"), ("avx512_bf16", "native-int8")):
        assert rates.fastest(entries, kind).name == fast
        assert rates.rate_of(engine_named(precisions, fast), kind) == max(
            rate for (_, precision), rate in rates.MEASURED[kind].items() if precision == "int8"
        )
    assert rates.rate_of(entries[0], "amx") is None


def test_a_quality_is_checked_and_goes_with_auto_alone(precisions: Bundle, bundle: Bundle) -> None:
    with pytest.raises(InputError, match="quality is 'best'; choose of lossless, high, fast"):
        select_engine(bundle, "auto", host(), "best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beside engine 'ort-int8'"):
        select_engine(precisions, "ort-int8", host(), "high")
    coarse = dataclasses.replace(precisions.manifest, engines=precisions.manifest.engines[2:])
    with pytest.raises(BundleError, match=r"no engine of quality 'high' .* only int8; export it"):
        select_engine(Bundle(bundle.folder, coarse), "auto", host(), "high")


def test_a_tuned_engine_that_does_not_keep_the_quality_is_passed_over(
    precisions: Bundle, tmp_path: Path
) -> None:
    tuned = tuned_copy(precisions, tmp_path, "ort-int8")
    assert select_engine(tuned, "auto", host()).entry.name == "ort-int8"
    found = select_engine(tuned, "auto", host(), "lossless")
    assert (found.entry.name, found.tuned) == ("ort-fp32", None)
    assert "it is int8, which quality 'lossless' is not" in found.reasons[-1]


def test_gpus_keep_the_quality_too(bundle: Bundle) -> None:
    built = with_built(bundle, "tensorrt", "11.4.0", 89)
    machine = host(89, tensorrt="11.4.0")
    assert select_engine(built, "auto", machine, "high").entry.name == "trt-bf16"
    found = select_engine(built, "auto", machine, "lossless")
    assert found.entry.name == "ort-fp32"
