"""Names of engines, and what "auto" takes."""

import dataclasses
import logging
from pathlib import Path

import pytest

from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.manifest import Builder, BuiltEngine, EngineEntry
from trine.runtime.embedder import Embedder
from trine.runtime.engines import choice
from trine.runtime.engines.choice import resolve_engine, why_not
from trine.runtime.engines.gpu.entries import gpu_entries
from trine.runtime.errors import BundleError, InputError


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
        ("auto", "ort-fp32", "onnxruntime"),
    ],
)
def test_a_name_is_an_entry_and_a_runner(
    bundle: Bundle, name: str, entry: str, runner: str
) -> None:
    found = bundle.engine(name)
    assert (found.name, found.runner) == (entry, runner)


def test_graphs_are_run_by_what_built_them(bundle: Bundle) -> None:
    rtx = with_built(bundle, "tensorrt_rtx", "1.7.1", 89)
    assert rtx.engine("trt-int8").runner == "tensorrt_rtx"
    # Asked for by name, another is never put in its place.
    assert rtx.engine("tensorrt").runner == "tensorrt"


def test_the_cuda_provider_takes_no_8_bit_graphs(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no engine 'trt-int8:ort_cuda'"):
        bundle.engine("trt-int8:ort_cuda")


@pytest.mark.parametrize(
    ("installed", "sm", "runner"),
    [
        ({"tensorrt": "11.4.0"}, 89, "tensorrt"),
        ({"tensorrt": "11.3.0"}, 89, "onnxruntime"),
        ({"tensorrt": "11.4.0"}, 90, "onnxruntime"),
        ({}, 89, "onnxruntime"),
        ({"tensorrt": "11.4.0"}, "there is no NVIDIA driver", "onnxruntime"),
    ],
)
def test_auto_takes_a_gpu_where_one_can_run_and_says_why_not(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    installed: dict[str, str],
    sm: int | str,
    runner: str,
) -> None:
    caplog.set_level(logging.INFO, logger=choice.__name__)
    monkeypatch.setattr(choice, "_installed", installed.get)
    monkeypatch.setattr(choice, "_present_sm", lambda device: sm)
    found = resolve_engine(with_built(bundle, "tensorrt", "11.4.0", 89), "auto", 0)
    assert found.runner == runner
    assert (runner == "tensorrt") == ("engine auto: not" not in caplog.text)


def test_auto_never_builds_while_it_loads(bundle: Bundle) -> None:
    runners = [entry.runner for entry in gpu_entries(bundle.manifest.engines)]
    assert runners == ["ort_cuda"]


@pytest.mark.parametrize("name", ["ort_tensorrt", "trt-bf16:ort_tensorrt"])
def test_the_runner_that_was_taken_out_names_what_to_use_instead(bundle: Bundle, name: str) -> None:
    with pytest.raises(BundleError, match=r"is no more: .*; use 'tensorrt' or 'tensorrt_rtx'"):
        bundle.engine(name)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a driver is here")
def test_without_a_gpu_its_engines_say_so(bundle: Bundle) -> None:
    assert why_not(bundle, bundle.engine("ort_cpu"), 0) is None
    problem = why_not(bundle, bundle.engine("tensorrt"), 0)
    assert problem is not None
    assert "no NVIDIA driver" in problem


def test_devices_are_numbered_from_0(golden_bundle: Path) -> None:
    with pytest.raises(InputError, match="device is -1; GPUs are numbered from 0"):
        Embedder.load(golden_bundle, device=-1)
