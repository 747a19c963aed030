"""Whether a machine can run an engine, and why not: one row of needs for each kind of runner."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trine.runtime.doctor.advice import tensorrt_version
from trine.runtime.doctor.machine import Machine
from trine.runtime.manifest import EngineEntry
from trine.runtime.progress import format_bytes

__all__ = ["RUNNERS", "EngineNeeds", "Verdict", "judge_engine", "judge_runners", "needs_of"]

#: Least compute capability whose tensor cores know a precision.
LEAST_SM = {"bf16": 80, "int8": 75, "fp16": 75, "fp8": 89}


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
ORT_TENSORRT = RunnerNeeds(provider="TensorrtExecutionProvider", module=None, gpu=True, extra="gpu")
TENSORRT = RunnerNeeds(provider=None, module="tensorrt", gpu=True, extra="tensorrt")
TENSORRT_RTX = RunnerNeeds(provider=None, module="tensorrt_rtx", gpu=True, extra="tensorrt")
#: By the runner's name in the manifest and the device.
RUNNERS: Mapping[str, Mapping[str, RunnerNeeds]] = {
    "onnxruntime": {"cpu": ORT_CPU, "cuda": ORT_CUDA},
    "native": {"cpu": NATIVE},
    "ort_cpu": {"cpu": ORT_CPU},
    "ort_cuda": {"cuda": ORT_CUDA},
    "ort_tensorrt": {"cuda": ORT_TENSORRT},
    "tensorrt": {"cuda": TENSORRT},
    "tensorrt_rtx": {"cuda": TENSORRT_RTX},
}
#: What is shown where there is no bundle to judge.
SHOWN = ("native", "ort_cpu", "ort_cuda", "ort_tensorrt", "tensorrt", "tensorrt_rtx")


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
    """

    name: str
    runner: str
    devices: tuple[str, ...] = ()
    precision: str = ""
    weight_bytes: int = 0
    sms: tuple[int, ...] = ()


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


def needs_of(entry: EngineEntry) -> EngineNeeds:
    """Return what an engine of a bundle needs."""
    return EngineNeeds(
        name=entry.name,
        runner=entry.runner,
        devices=tuple(entry.devices),
        precision=entry.precision,
        weight_bytes=entry.weight_bytes,
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
        found = [*_software_obstacles(needs, machine)]
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
            command = "'trine[tensorrt]'" if package == "tensorrt" else "tensorrt-rtx-cu13"
            yield f"{package} is not installed: pip install {command}"


def _installed(package: str, machine: Machine) -> bool:
    if package == "tensorrt":
        return tensorrt_version(machine) is not None
    return any(name.startswith(package) for name in machine.packages)


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
        yield f"built for {built}, here is {shown}; rebuild with `trine build BUNDLE --sm {sms}`"
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
    dot_products = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
    if engine.precision == "int8" and not dot_products & set(machine.cpu.features):
        yield "this processor has no 8-bit dot products: int8 saves memory here, hardly time"
