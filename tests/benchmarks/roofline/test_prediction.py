"""Predicted times, the program, the page, and the benchmark without a GPU."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import gpu_roofline
import pytest
from roofline.devices import DEVICES, PRECISIONS, DeviceSheet, sheet_of
from roofline.prediction import predict, stage_bytes
from roofline.stages import Stage
from roofline.tables import image_workload, rate_rows, text_workload

from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.info.bundle_summary import count_parameters
from trine.runtime.hardware.machine import Driver

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
SHEETS = {device.name: device for device in DEVICES}
DEVICE = DeviceSheet(
    name="made up",
    sm=89,
    tera_operations={"fp32": 1, "tf32": 2, "bf16": 4, "int8": 8},
    bandwidth=100,
    memory=10,
    pattern="made up",
    source="a test",
)
LINEAR = Stage(
    name="linear", kind="linear", operations=4 * 10**12, weights=10**9, inputs=10**8, outputs=10**8
)


def load_benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_stage_takes_the_longer_of_operations_and_bytes() -> None:
    found = predict([LINEAR], DEVICE, "bf16")
    assert found is not None
    (stage,) = found.stages
    assert stage.num_bytes == 2 * (10**9 + 2 * 10**8)
    assert stage.compute_s == pytest.approx(1.0)
    assert stage.memory_s == pytest.approx(0.024)
    assert found.seconds == pytest.approx(1.0)
    assert found.memory_share == 0


def test_stages_follow_one_another() -> None:
    waits = Stage(
        name="x", kind="linear", operations=1, weights=5 * 10**9 // 2, inputs=0, outputs=0
    )
    found = predict([LINEAR, waits], DEVICE, "bf16")
    assert found is not None
    assert found.seconds == pytest.approx(1.05)
    assert found.memory_share == pytest.approx(0.05 / 1.05)


def test_eight_bits_are_for_linear_layers() -> None:
    attention = Stage(
        name="a", kind="attention", operations=4 * 10**12, weights=0, inputs=10**6, outputs=10**6
    )
    head = Stage(
        name="h", kind="head", operations=10**12, weights=10**3, inputs=10**6, outputs=10**3
    )
    found = predict([LINEAR, attention, head], DEVICE, "int8")
    assert found is not None
    assert [stage.compute_s for stage in found.stages] == pytest.approx([0.5, 1.0, 1.0])
    assert stage_bytes(LINEAR, "int8") == 10**9 + 10**8 + 2 * 10**8
    assert stage_bytes(attention, "int8") == 2 * 2 * 10**6
    assert stage_bytes(head, "int8") == 4 * (2 * 10**3 + 10**6)


def test_what_a_device_lacks_is_not_predicted() -> None:
    assert predict([LINEAR], DEVICE, "fp8") is None
    big = Stage(name="x", kind="linear", operations=1, weights=4 * 10**9, inputs=1, outputs=1)
    assert predict([big], DEVICE, "fp32") is None
    assert predict([big], DEVICE, "bf16") is not None


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_data_sheets_are_consistent(device: DeviceSheet) -> None:
    rates = device.tera_operations
    assert set(rates) <= set(PRECISIONS)
    assert ("fp8" in rates) == (device.sm >= 89)
    assert rates["bf16"] == pytest.approx(2 * rates["tf32"], rel=0.02)
    assert rates["int8"] / rates["bf16"] == pytest.approx(
        4 if device.name in ("RTX 4090", "RTX 5090") else 2, rel=0.01
    )
    assert device.source


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090 D", None),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", None),
    ],
)
def test_a_gpu_finds_its_data_sheet(name: str, sheet: str | None) -> None:
    found = sheet_of(name)
    assert (None if found is None else found.name) == sheet


def test_published_numbers_come_out_as_computed_by_hand() -> None:
    model = sample_model(SampleSpec.full())
    text = text_workload(model, 1, 1)
    linear = sum(s.operations for s in text.stages if s.kind == "linear")
    # 36 layers of q, k, v, o, gate, up and down, two operations a weight.
    assert linear == 2 * 36 * (2048 * 2560 + 2048 * 2048 + 3 * 2048 * 11008)
    page = image_workload(model, 1, (1754, 1240), scaffold_tokens=11)
    vision = [s for s in page.stages if s.name.startswith("vision") and s.kind == "linear"]
    block = 1280 * 3840 + 1280 * 1280 + 3 * 1280 * 3420
    a_patch = 1176 * 1280 + 32 * block + (5120 * 5120 + 5120 * 2048) // 4
    assert sum(s.operations for s in vision) == 2944 * 2 * a_patch
    weights = sum(s.weights for s in page.stages)
    counts = count_parameters(model)
    assert weights == pytest.approx(counts.decoder + counts.vision, rel=1e-3)


def test_the_page_is_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_benchmark("roofline_page", monkeypatch)
    assert module.PAGE.read_text(encoding="utf-8") == module.page_text()
    assert "is a prediction" in module.page_text()


def test_the_program_prints_tables(nano_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "64", "--image", "500x300", "--precision", "fp16"]
    assert gpu_roofline.main([str(nano_bundle), *options]) == 0
    out = capsys.readouterr().out
    assert "not measurements" in out
    assert "16 texts of 64 tokens" in out
    assert "8 pages of 500×300 pixels" in out
    assert all(device.name in out for device in DEVICES)
    assert "fp8" not in out


def test_the_json_is_what_the_tables_say(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_roofline.main([str(nano_bundle), "--json", "--batch", "2", "--multi-vector"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = open_bundle(nano_bundle).manifest.model
    text = text_workload(model, 2, 512, multi=True)
    shown = found["workloads"][0]
    assert [s["operations"] for s in shown["stages"]] == [s.operations for s in text.stages]
    heading, *rows = rate_rows(text)
    assert heading[1:] == PRECISIONS
    for row in rows:
        for precision, cell in zip(PRECISIONS, row[1:], strict=True):
            value = shown["predicted_per_second"][row[0]][precision]
            assert (cell == "–") == (value is None)


def test_runtime_adapters_are_counted(
    nano_runtime_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_roofline.main([str(nano_runtime_bundle), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["workloads"][0]["stages"]
    assert "adapters" in {stage["name"] for stage in stages}


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--image", "large"], "--image is 'large'; give WIDTHxHEIGHT"),
        (["--image", "0x5"], "--image is '0x5'"),
        (["--tokens", "0"], "--tokens is 0; give at least 1"),
        (["--image", "9000x10"], "200 times"),
    ],
)
def test_bad_options_are_refused(
    options: list[str], fragment: str, nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_roofline.main([str(nano_bundle), *options]) == 2
    assert fragment in capsys.readouterr().err


def test_the_benchmark_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = load_benchmark("gpu", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "bundle"])
    absent = Driver(version=None, cuda=None, gpus=(), problem="no NVIDIA driver")
    assert benchmark.main(lambda: absent) == benchmark.NO_GPU == 3
    assert capsys.readouterr().err == "no GPU: no NVIDIA driver; nothing was measured\n"


def test_the_benchmarks_runs_have_the_tokens_they_claim(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trine.runtime.preprocessing.tokenizer import TextTokenizer

    benchmark = load_benchmark("gpu", monkeypatch)
    bundle = open_bundle(nano_bundle)
    tokenizer = TextTokenizer(bundle.path("tokenizer.json"))
    for run in benchmark.make_runs(bundle, 0):
        assert run.workload.tokens > 0
        if run.workload.unit == "tokens":
            ids = tokenizer.encode([f"Query: {text}" for text in run.items])
            assert sum(map(len, ids)) == run.workload.count == run.workload.tokens
        else:
            assert len(run.items) == run.workload.count


def test_an_engine_on_processors_is_not_measured_as_a_gpu(
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from trine.runtime.hardware.machine import Gpu

    benchmark = load_benchmark("gpu", monkeypatch)
    gpu = Gpu(index=0, name="NVIDIA L4", sm=89, memory_bytes=24 * 10**9)
    present = Driver(version="580", cuda=(13, 0), gpus=(gpu,), problem=None)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(nano_bundle), "--out", str(out)])
    assert benchmark.main(lambda: present) == benchmark.FAILED
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["measured"] == []
    assert all("runs on processors here" in text for text in record["failures"].values())
    assert record["device"]["name"] == "NVIDIA L4"
    assert "not measured" in capsys.readouterr().err


def test_the_benchmark_tries_every_way_to_run_graphs_on_a_gpu(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load_benchmark("gpu", monkeypatch)
    bundle = open_bundle(nano_bundle)
    (listed,) = bundle.manifest.engines
    graphs = dataclasses.replace(listed, name="trt-bf16", runner="tensorrt", precision="bf16")
    manifest = dataclasses.replace(bundle.manifest, engines=(listed, graphs))
    names = benchmark.gpu_engines(dataclasses.replace(bundle, manifest=manifest))
    assert names == [f"trt-bf16:{runner}" for runner in ("tensorrt", "tensorrt_rtx", "ort_cuda")]
    assert benchmark.gpu_engines(bundle) == [listed.name]


def test_what_was_measured_stands_beside_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_benchmark("roofline_page", monkeypatch)
    row = {
        "engine": "trt-bf16:tensorrt",
        "run": "1 text of 32 tokens",
        "unit": "tokens",
        "measured": 850.0,
        "predicted": 1700.0,
        "share": 0.5,
        "golden_cosine": 0.9991,
    }
    record = {
        "device": {"name": "NVIDIA L4"},
        "driver": "580",
        "measured": [row],
        "failures": {"trt-bf16:ort_cuda": "no such library"},
    }
    text = "\n".join(page.measured_lines(record))
    assert "| 850.0 tokens/s | 1,700.0 | 50% | 0.99910 |" in text
    assert "trt-bf16:ort_cuda was not measured: no such library" in text
