"""Judges whether a machine can run an engine: one row of needs for each kind of runner."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from trine.runtime.bundle.manifest import Builder, EngineEntry
from trine.runtime.commands.doctor.advice import install_line, tensorrt_version
from trine.runtime.commands.progress import format_bytes
from trine.runtime.engines.gpu.entries import ways_to_run
from trine.runtime.hardware.machine import Machine

__all__ = ["RUNNERS", "EngineNeeds", "Verdict", "judge_engine", "judge_runners", "needs_of"]

#: Least compute capability whose tensor cores know a precision.
LEAST_SM = {"bf16": 80, "int4": 80, "int8": 75, "fp16": 75, "fp8": 89}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerNeeds:
    """What one kind of runner needs.

    Attributes:
        provider: of ONNX Runtime; None for runners that do without.
        module: to import besides; None for none.
        gpu: whether a CUDA device must be there.
        extra: that brings the packages.
        kernels: whether Trine's own kernels of the processor must be usable.
    """

    provider: str | None
    module: str | None
    gpu: bool
    extra: str
    kernels: bool = False


NATIVE = RunnerNeeds(provider=None, module=None, gpu=False, extra="cpu", kernels=True)
ORT_CPU = RunnerNeeds(provider="CPUExecutionProvider", module=None, gpu=False, extra="cpu")
ORT_CUDA = RunnerNeeds(provider="CUDAExecutionProvider", module=None, gpu=True, extra="gpu")
TENSORRT = RunnerNeeds(provider=None, module="tensorrt", gpu=True, extra="tensorrt")
TENSORRT_RTX = RunnerNeeds(provider=None, module="tensorrt_rtx", gpu=True, extra="tensorrt-rtx")
#: By the runner's name in the manifest and the device.
RUNNERS: Mapping[str, Mapping[str, RunnerNeeds]] = {
    "onnxruntime": {"cpu": ORT_CPU},
    "native": {"cpu": NATIVE},
    "ort_cpu": {"cpu": ORT_CPU},
    "ort_cuda": {"cuda": ORT_CUDA},
    "tensorrt": {"cuda": TENSORRT},
    "tensorrt_rtx": {"cuda": TENSORRT_RTX},
}
#: What is shown where there is no bundle to judge.
SHOWN = ("native", "ort_cpu", "ort_cuda", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNeeds:
    """What an engine asks of a machine.

    Attributes:
        name: of the engine, or of the runner where there is no bundle.
        runner: as the manifest names it.
        devices: kinds of processor it has kernels for; () for all that its runner has.
        precision: of its products; "" if that does not matter.
        weight_bytes: of one decoder and the vision tower; 0 if unknown.
        sms: the architectures it was built for; () where it is not built for any.
        versions: of the runner that built it; () where none did.
        build: the command that builds it; "" where it is not built.
    """

    name: str
    runner: str
    devices: tuple[str, ...] = ()
    precision: str = ""
    weight_bytes: int = 0
    sms: tuple[int, ...] = ()
    versions: tuple[str, ...] = ()
    build: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an engine can run.

    Attributes:
        name: the engine's.
        runner: what runs it.
        devices: kinds of processor on which it can run here.
        obstacles: what stands against the others, a sentence each, by the kind of processor.
        remarks: what to know though it can run.
    """

    name: str
    runner: str
    devices: tuple[str, ...]
    obstacles: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def can_run(self) -> bool:
        return bool(self.devices)


def needs_of(entry: EngineEntry, folder: str = "BUNDLE") -> Iterator[EngineNeeds]:
    """Yield what an engine of a bundle needs, for each way to run it.

    Args:
        entry: of the engine.
        folder: of the bundle, for commands.
    """
    general = EngineNeeds(
        name=entry.name,
        runner=entry.runner,
        devices=tuple(entry.devices),
        precision=entry.precision,
        weight_bytes=entry.weight_bytes,
    )
    if entry.runner != "tensorrt":
        yield general
        return
    for way in ways_to_run(entry):
        made = [built for built in entry.built if built.builder == way.runner]
        builder = way.runner if way.runner in get_args(Builder) else ""
        command = f"trine build {folder} --engine {entry.name}"
        yield replace(
            general,
            name=f"{entry.name}:{way.runner}",
            runner=way.runner,
            sms=tuple(sorted({sm for built in made for sm in built.sms})),
            versions=tuple(dict.fromkeys(built.version for built in made)),
            build=f"{command} --builder {builder.replace('_', '-')}" if builder else "",
        )


def judge_runners(machine: Machine) -> tuple[Verdict, ...]:
    """Return for each kind of runner whether this machine has what it needs."""
    return tuple(judge_engine(EngineNeeds(name=name, runner=name), machine) for name in SHOWN)


def judge_engine(engine: EngineNeeds, machine: Machine) -> Verdict:
    """Return whether `machine` can run `engine`."""
    ways = RUNNERS.get(engine.runner)
    if ways is None:
        unknown = f"this version knows no runner {engine.runner!r}; upgrade trine"
        return Verdict(name=engine.name, runner=engine.runner, devices=(), obstacles=(unknown,))
    devices, obstacles = [], []
    for device, needs in ways.items():
        if engine.devices and device not in engine.devices:
            continue
        found = [*_software_obstacles(needs, machine), *_build_obstacles(engine, machine)]
        if needs.gpu:
            found += _gpu_obstacles(engine, machine)
        obstacles += [f"{device}: {sentence}" for sentence in found]
        if not found:
            devices.append(device)
    return Verdict(
        name=engine.name,
        runner=engine.runner,
        devices=tuple(devices),
        obstacles=tuple(obstacles),
        remarks=tuple(_cpu_remarks(engine, machine)) if "cpu" in devices else (),
    )


def _software_obstacles(needs: RunnerNeeds, machine: Machine) -> Iterator[str]:
    if needs.kernels and machine.native_problem is not None:
        yield machine.native_problem
    runtime = machine.onnxruntime
    if needs.provider is not None:
        provider = runtime.provider(needs.provider)
        if runtime.version is None:
            why = runtime.problem or f"not installed: pip install 'trine[{needs.extra}]'"
            yield f"onnxruntime: {why}"
        elif not provider.offered:
            yield f"onnxruntime {runtime.version} was built without {needs.provider}"
        elif provider.problem is not None:
            yield f"{needs.provider}: {provider.problem}"
    if needs.module is not None:
        package = needs.module.replace("_", "-")
        if needs.module in machine.broken:
            yield f"{package}: {machine.broken[needs.module]}"
        elif not _installed(package, machine):
            yield f"{package} is not installed: {install_line(needs.extra)}"
    if needs.gpu and "cuda-bindings" not in machine.packages:
        yield f"cuda-bindings is not installed: {install_line(needs.extra)}"


def _build_obstacles(engine: EngineNeeds, machine: Machine) -> Iterator[str]:
    """Yield why what was built of an engine is of no use to the installed library."""
    if not engine.build:
        return
    if not engine.versions:
        yield f"nothing was built of its graphs; run `{engine.build} --sm SM` for the GPU's SM"
        return
    version = _version(engine.runner.replace("_", "-"), machine)
    if version is not None and version not in engine.versions:
        built = ", ".join(engine.versions)
        yield f"built with {built}, here is {version}; build again: `{engine.build}`"


def _installed(package: str, machine: Machine) -> bool:
    return _version(package, machine) is not None


def _version(package: str, machine: Machine) -> str | None:
    if package == "tensorrt":
        return tensorrt_version(machine)
    return next((v for name, v in machine.packages.items() if name.startswith(package)), None)


def _gpu_obstacles(engine: EngineNeeds, machine: Machine) -> Iterator[str]:
    driver = machine.driver
    if not driver.gpus:
        yield driver.problem or "no CUDA device"
        return
    shown = ", ".join(f"{gpu.name} (sm_{gpu.sm})" for gpu in driver.gpus)
    least = LEAST_SM.get(engine.precision, 0)
    able = [gpu for gpu in driver.gpus if gpu.sm >= least]
    if not able:
        yield f"{engine.precision} products need sm_{least} or newer, here is {shown}"
        return
    if engine.sms and not any(gpu.sm in engine.sms for gpu in able):
        built = ", ".join(f"sm_{sm}" for sm in engine.sms)
        sms = ",".join(str(sm) for sm in sorted({gpu.sm for gpu in able}))
        command = engine.build or "trine build BUNDLE"
        yield f"built for {built}, here is {shown}; rebuild with `{command} --sm {sms}`"
        return
    room = max(gpu.memory_bytes for gpu in able)
    if engine.weight_bytes > room:
        yield (
            f"its weights of {format_bytes(engine.weight_bytes)} do not fit the device's "
            f"{format_bytes(room)}"
        )


def _cpu_remarks(engine: EngineNeeds, machine: Machine) -> Iterator[str]:
    free = machine.cpu.available_bytes
    if free is not None and engine.weight_bytes > free:
        yield (
            f"weights of {format_bytes(engine.weight_bytes)} exceed the free memory of "
            f"{format_bytes(free)}; they would be read from disk again and again"
        )
    # AVX2 multiplies 8-bit numbers, widened, at twice the rate of float32.
    faster = {"avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
    if engine.precision == "int8" and not faster & set(machine.cpu.features):
        yield "this processor has no fast 8-bit products: int8 saves memory here, hardly time"
