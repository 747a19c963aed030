"""The doctor says of made-up machines which parts fit together."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.manifest import BuiltEngine, EngineEntry
from trine.runtime.commands.doctor.advice import advise
from trine.runtime.commands.doctor.report import Report, report_lines, report_object
from trine.runtime.commands.doctor.verdict import (
    RUNNERS,
    EngineNeeds,
    judge_engine,
    judge_runners,
    needs_of,
)
from trine.runtime.commands.program import main
from trine.runtime.engines.gpu.entries import GPU_RUNNERS
from trine.runtime.hardware.machine import (
    Cpu,
    Driver,
    Extra,
    Gpu,
    Machine,
    OnnxRuntime,
    Provider,
    Requirement,
)

GB = 10**9
CPU = Cpu(
    name="Some CPU",
    cores=8,
    features=("avx2", "avx512_vnni"),
    memory_bytes=64 * GB,
    available_bytes=60 * GB,
)
NO_DRIVER = Driver(version=None, cuda=None, gpus=(), problem="no NVIDIA driver (not found)")
L4 = Gpu(index=0, name="NVIDIA L4", sm=89, memory_bytes=24 * GB)
A10 = Gpu(index=0, name="NVIDIA A10", sm=86, memory_bytes=24 * GB)
T4 = Gpu(index=0, name="Tesla T4", sm=75, memory_bytes=16 * GB)
NAMES = ("CPUExecutionProvider", "CUDAExecutionProvider")


def driver(*gpus: Gpu, cuda: tuple[int, int] = (13, 0)) -> Driver:
    return Driver(version="580.65.06", cuda=cuda, gpus=gpus, problem=None)


def runtime(*offered: str, problems: dict[str, str] | None = None, linked: bool) -> OnnxRuntime:
    return OnnxRuntime(
        version="1.31.1",
        problem=None,
        providers=tuple(
            Provider(name=name, offered=name in offered, problem=(problems or {}).get(name))
            for name in NAMES
        ),
        linked={"cublasLt": 13, "cudnn": 9} if linked else {},
    )


CPU_ONLY = Machine(
    cpu=CPU,
    driver=NO_DRIVER,
    onnxruntime=runtime(NAMES[0], linked=False),
    packages={"onnxruntime": "1.31.1"},
    broken={},
    extras=(),
    native_problem="this processor has no AVX-512 VNNI",
)
WITH_GPU = Machine(
    cpu=CPU,
    driver=driver(L4),
    onnxruntime=runtime(*NAMES, linked=True),
    packages={"onnxruntime-gpu": "1.31.1", "tensorrt": "10.16.1", "cuda-bindings": "13.5.0"},
    broken={},
    extras=(),
    native_problem="this processor has no AVX-512 VNNI",
)


def able(machine: Machine) -> set[str]:
    return {verdict.runner for verdict in judge_runners(machine) if verdict.can_run}


def test_a_machine_without_gpu_runs_on_the_cpu_alone_and_needs_nothing() -> None:
    assert able(CPU_ONLY) == {"ort_cpu"}
    assert advise(CPU_ONLY) == ()


def test_kernels_that_were_not_compiled_are_to_mend_where_they_are_faster() -> None:
    (advice,) = advise(replace(CPU_ONLY, misses_kernels=True))
    assert "not compiled" in advice.problem
    assert "apt-get install g++" in advice.remedy


def test_a_machine_where_all_fits() -> None:
    assert able(WITH_GPU) == {"ort_cpu", "ort_cuda", "tensorrt"}
    assert advise(WITH_GPU) == ()


def test_a_gpu_with_the_cpu_package_only() -> None:
    machine = replace(CPU_ONLY, driver=driver(L4))
    assert able(machine) == {"ort_cpu"}
    (advice,) = advise(machine)
    assert "built without CUDA" in advice.problem
    assert advice.remedy.endswith("pip install 'trine[gpu]'")


def test_both_packages_of_one_module() -> None:
    packages = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    (advice, *_) = advise(replace(WITH_GPU, packages=packages))
    assert "overwrite each other" in advice.problem
    assert advice.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install")


def test_missing_cuda_libraries_have_their_install_line() -> None:
    problems = {NAMES[1]: "libcublasLt.so.13: cannot open shared object file: No such file"}
    machine = replace(WITH_GPU, onnxruntime=runtime(*NAMES, problems=problems, linked=True))
    assert "ort_cuda" not in able(machine)
    (advice,) = advise(machine)
    assert advice.remedy == "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def test_a_driver_older_than_the_packages() -> None:
    machine = replace(WITH_GPU, driver=driver(L4, cuda=(12, 4)))
    (advice,) = advise(machine)
    assert "built for CUDA 13, but the driver runs CUDA up to 12.4" in advice.problem


def test_gpu_packages_without_a_driver() -> None:
    problems = dict.fromkeys(NAMES[1:], "libcuda.so.1: cannot open shared object file")
    machine = replace(
        WITH_GPU,
        driver=NO_DRIVER,
        onnxruntime=runtime(*NAMES, problems=problems, linked=True),
    )
    assert able(machine) == {"ort_cpu"}
    first, second = advise(machine)
    assert "--gpus all" in first.remedy
    assert "driver first" in second.remedy


def test_a_package_that_cannot_be_imported() -> None:
    broken = {"tensorrt": "ImportError: libnvonnxparser.so.11: cannot open"}
    machine = replace(WITH_GPU, broken=broken)
    assert "tensorrt" not in able(machine)
    (advice,) = advise(machine)
    assert "cannot be imported" in advice.problem
    assert "pip install --force-reinstall tensorrt" in advice.remedy


@pytest.mark.parametrize("problem", [None, "ImportError: DLL load failed"])
def test_no_onnxruntime(problem: str | None) -> None:
    empty = OnnxRuntime(version=None, problem=problem, providers=(), linked={})
    machine = replace(CPU_ONLY, onnxruntime=empty, packages={})
    assert able(machine) == set()
    (advice,) = advise(machine)
    assert advice.remedy == "pip install 'trine[cpu]'"
    assert (problem or "not installed") in advice.problem


def test_missing_extras_have_their_install_line() -> None:
    def lacking(name: str, package: str, installed: str | None = None) -> Extra:
        need = Requirement(package=package, minimum="4.30", installed=installed, fits=False)
        return Extra(name=name, requirements=(need,))

    extras = (
        lacking("pdf", "pypdfium2", "4.1"),
        lacking("reference", "torch"),
        lacking("gpu", "onnxruntime-gpu"),
    )
    (advice,) = advise(replace(CPU_ONLY, extras=extras))
    assert advice.problem == "the extra 'pdf' is not complete: pypdfium2 4.1 (needs 4.30)"
    assert advice.remedy == "pip install 'trine[pdf]'"


def test_an_extra_with_onnxruntime_is_installed_by_its_packages_beside_the_gpu_one() -> None:
    requirements = (
        Requirement(package="onnx", minimum="1.20", installed=None, fits=False),
        Requirement(package="onnxruntime", minimum="1.31", installed="1.31.1", fits=True),
    )
    extra = Extra(name="export", requirements=requirements)
    (advice,) = advise(replace(WITH_GPU, extras=(extra,)))
    assert advice.remedy == "pip install 'onnx>=1.20'"


@pytest.mark.parametrize(
    ("precision", "gpu", "fragment"),
    [
        ("fp8", L4, None),
        ("fp8", A10, "fp8 products need sm_89 or newer, here is NVIDIA A10 (sm_86)"),
        ("bf16", A10, None),
        ("bf16", T4, "bf16 products need sm_80"),
        ("int8", T4, None),
        ("fp32", T4, None),
    ],
)
def test_a_precision_needs_its_architecture(precision: str, gpu: Gpu, fragment: str | None) -> None:
    needs = EngineNeeds(name="e", runner="ort_cuda", precision=precision)
    verdict = judge_engine(needs, replace(WITH_GPU, driver=driver(gpu)))
    assert verdict.can_run is (fragment is None)
    if fragment is not None:
        assert fragment in " ".join(verdict.obstacles)


def test_an_engine_built_for_another_gpu_names_the_rebuild() -> None:
    needs = EngineNeeds(name="e", runner="tensorrt", sms=(86, 120))
    verdict = judge_engine(needs, WITH_GPU)
    assert not verdict.can_run
    assert "built for sm_86, sm_120, here is NVIDIA L4 (sm_89)" in verdict.obstacles[0]
    assert "trine build BUNDLE --sm 89" in verdict.obstacles[0]
    assert judge_engine(replace(needs, sms=(89,)), WITH_GPU).can_run


def test_weights_must_fit_the_gpu_but_not_the_memory() -> None:
    gpu = EngineNeeds(name="e", runner="ort_cuda", weight_bytes=30 * GB)
    assert "do not fit" in judge_engine(gpu, WITH_GPU).obstacles[0]
    cpu = EngineNeeds(name="e", runner="ort_cpu", weight_bytes=61 * GB)
    verdict = judge_engine(cpu, CPU_ONLY)
    assert verdict.can_run
    assert "read from disk" in verdict.remarks[0]


def test_int8_without_fast_products_is_remarked_on() -> None:
    machine = replace(CPU_ONLY, cpu=replace(CPU, features=()))
    needs = EngineNeeds(name="e", runner="ort_cpu", precision="int8")
    assert "no fast 8-bit products" in judge_engine(needs, machine).remarks[0]
    assert judge_engine(needs, CPU_ONLY).remarks == ()


def test_graphs_of_onnxruntimes_own_operators_run_on_the_processor() -> None:
    needs = EngineNeeds(name="e", runner="onnxruntime", devices=("cpu", "cuda"))
    assert judge_engine(needs, WITH_GPU).devices == ("cpu",)
    assert judge_engine(needs, CPU_ONLY).devices == ("cpu",)
    assert not judge_engine(replace(needs, devices=("cuda",)), WITH_GPU).can_run


def test_native_kernels_run_where_nothing_speaks_against_them() -> None:
    assert able(replace(CPU_ONLY, native_problem=None)) == {"native", "ort_cpu"}


def test_a_gpu_engine_needs_the_bindings_of_its_driver() -> None:
    packages = {n: v for n, v in WITH_GPU.packages.items() if n != "cuda-bindings"}
    machine = replace(WITH_GPU, packages=packages)
    assert able(machine) == {"ort_cpu"}
    verdict = judge_engine(EngineNeeds(name="e", runner="ort_cuda"), machine)
    assert verdict.obstacles == ("cuda: cuda-bindings is not installed: pip install 'trine[gpu]'",)


def trt_entry(nano_bundle: Path, *built: BuiltEngine) -> EngineEntry:
    (listed,) = open_bundle(nano_bundle).manifest.engines
    return replace(
        listed,
        name="trt-bf16",
        runner="tensorrt",
        devices=("cuda",),
        precision="bf16",
        built=built,
    )


def engine_of(version: str, *sms: int) -> BuiltEngine:
    return BuiltEngine(
        graph="vision.onnx",
        path="vision.engine",
        key="0" * 64,
        builder="tensorrt",
        version=version,
        sms=sms,
        profiles=(),
        layers=1,
        scratch_bytes=(),
        build_seconds=0.0,
        build_peak_bytes=0,
    )


@pytest.mark.parametrize(
    ("version", "sms", "obstacle"),
    [
        ("10.16.1", (89,), None),
        ("11.4.0", (89,), "built with 11.4.0, here is 10.16.1; build again: `trine build B "),
        ("10.16.1", (90,), "built for sm_90, here is NVIDIA L4 (sm_89); rebuild with `trine b"),
    ],
)
def test_graphs_for_tensorrt_are_judged_by_each_way_to_run_them(
    nano_bundle: Path, version: str, sms: tuple[int, ...], obstacle: str | None
) -> None:
    entry = trt_entry(nano_bundle, engine_of(version, *sms))
    verdicts = {n.name: judge_engine(n, WITH_GPU) for n in needs_of(entry, "B")}
    assert list(verdicts) == [f"trt-bf16:{runner}" for runner in GPU_RUNNERS]
    found = verdicts["trt-bf16:tensorrt"]
    assert found.can_run == (obstacle is None)
    assert obstacle is None or obstacle in found.obstacles[0]
    assert verdicts["trt-bf16:ort_cuda"].can_run
    # TensorRT-RTX is not installed, and built nothing.
    assert "nothing was built of its graphs; run `trine build B --engine trt-bf16" in " ".join(
        verdicts["trt-bf16:tensorrt_rtx"].obstacles
    )


def test_a_runner_of_the_future_is_refused() -> None:
    verdict = judge_engine(EngineNeeds(name="e", runner="quantum"), WITH_GPU)
    assert not verdict.can_run
    assert "'quantum'; upgrade trine" in verdict.obstacles[0]


def test_every_engine_of_a_bundle_has_a_known_runner(nano_bundle: Path) -> None:
    for entry in open_bundle(nano_bundle).manifest.engines:
        assert entry.runner in RUNNERS
        assert all(judge_engine(needs, CPU_ONLY).can_run for needs in needs_of(entry))


@pytest.mark.parametrize("machine", [CPU_ONLY, WITH_GPU], ids=["cpu", "gpu"])
def test_the_report_says_all_of_it(machine: Machine) -> None:
    report = Report(
        machine=machine, verdicts=judge_runners(machine), advice=advise(machine), bundle=None
    )
    text = "\n".join(report_lines(report))
    for verdict in report.verdicts:
        assert f"{'yes' if verdict.can_run else 'no '}  {verdict.name}" in text
        assert all(sentence in text for sentence in verdict.obstacles)
    for gpu in machine.driver.gpus:
        assert gpu.name in text
    content = json.loads(json.dumps(report_object(report)))
    assert content["can_run"] is True
    assert {v["name"] for v in content["verdicts"] if v["can_run"]} == able(machine)
    assert len(content["machine"]["driver"]["gpus"]) == len(machine.driver.gpus)


def test_the_program_reports_on_this_machine(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(nano_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [entry.name for entry in open_bundle(nano_bundle).manifest.engines]
    assert [verdict["name"] for verdict in found["verdicts"]] == names
    assert found["bundle"] == str(nano_bundle)
    assert found["machine"]["cpu"]["cores"] >= 1


def test_the_program_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"CPUExecutionProvider +works", captured.out)
    assert "yes  ort_cpu" in captured.out
    assert captured.err == ""


def test_the_exit_code_is_1_if_nothing_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = OnnxRuntime(version=None, problem=None, providers=(), linked={})
    machine = replace(CPU_ONLY, onnxruntime=empty, packages={})
    monkeypatch.setattr("trine.runtime.commands.doctor.survey.survey_machine", lambda: machine)
    assert main(["doctor"]) == 1
    assert "pip install 'trine[cpu]'" in capsys.readouterr().out
