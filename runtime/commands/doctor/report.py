"""Shows what `trine doctor` found: lines for people, an object for programs."""

import dataclasses
from collections.abc import Iterator

from trine.runtime.commands.doctor.advice import Advice, tensorrt_version
from trine.runtime.commands.doctor.verdict import Verdict
from trine.runtime.commands.info.bundle_summary import table_lines
from trine.runtime.commands.progress import format_bytes
from trine.runtime.hardware.machine import Machine, OnnxRuntime

__all__ = ["Report", "report_lines", "report_object"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything there is to say.

    Attributes:
        machine: what was found.
        verdicts: of a bundle's engines, or of the kinds of runner.
        advice: what to mend.
        bundle: the bundle's folder; None without one.
    """

    machine: Machine
    verdicts: tuple[Verdict, ...]
    advice: tuple[Advice, ...]
    bundle: str | None

    @property
    def can_run(self) -> bool:
        return any(verdict.can_run for verdict in self.verdicts)


def report_object(report: Report) -> dict[str, object]:
    """Return the report for JSON: its fields, and `can_run` of it and of each verdict."""
    content = dataclasses.asdict(report)
    content["verdicts"] = [
        {**dataclasses.asdict(verdict), "can_run": verdict.can_run} for verdict in report.verdicts
    ]
    return {"can_run": report.can_run, **content}


def report_lines(report: Report) -> Iterator[str]:
    """Yield the lines that `trine doctor` prints."""
    machine = report.machine
    yield "machine"
    yield from table_lines(list(_machine_rows(machine)))
    yield ""
    yield "software"
    yield from table_lines(list(_software_rows(machine)))
    yield ""
    yield f"engines of {report.bundle}" if report.bundle else "kinds of engine"
    for verdict in report.verdicts:
        yield from _verdict_lines(verdict)
    if report.advice:
        yield ""
        yield "to mend"
        for advice in report.advice:
            yield f"  {advice.problem}"
            yield f"      {advice.remedy}"


def _machine_rows(machine: Machine) -> Iterator[tuple[str, str]]:
    cpu, driver = machine.cpu, machine.driver
    yield "processor", f"{cpu.name}, {cpu.cores} cores"
    yield "8- and 16-bit products", ", ".join(cpu.features) or "unknown"
    if cpu.memory_bytes is not None and cpu.available_bytes is not None:
        free = format_bytes(cpu.available_bytes)
        yield "memory", f"{format_bytes(cpu.memory_bytes)}, {free} free"
    cuda = "" if driver.cuda is None else f", CUDA up to {'.'.join(map(str, driver.cuda))}"
    yield "NVIDIA driver", f"{driver.version or 'version unknown'}{cuda}" if cuda else "none"
    for gpu in driver.gpus:
        memory = format_bytes(gpu.memory_bytes)
        yield f"GPU {gpu.index}", f"{gpu.name}, sm_{gpu.sm}, {memory}"
    if driver.problem is not None:
        yield "GPU", driver.problem


def _software_rows(machine: Machine) -> Iterator[tuple[str, str]]:
    runtime = machine.onnxruntime
    yield "native kernels", machine.native_problem or machine.native_kernels or "work"
    yield "onnxruntime", runtime.version or runtime.problem or "not installed"
    for provider in runtime.providers:
        state = "works" if provider.works else provider.problem or "not in this build"
        yield f"  {provider.name}", state
    if runtime.linked:
        yield "  linked with", _linked(runtime)
    yield "TensorRT", tensorrt_version(machine) or "not installed"
    rtx = [v for name, v in machine.packages.items() if name.startswith("tensorrt-rtx")]
    yield "TensorRT-RTX", rtx[0] if rtx else "not installed"
    for extra in machine.extras:
        missing = [r.package for r in extra.requirements if not r.fits]
        yield f"extra {extra.name}", f"missing {', '.join(missing)}" if missing else "complete"


def _linked(runtime: OnnxRuntime) -> str:
    names = {"cublasLt": "CUDA", "cudnn": "cuDNN"}
    return ", ".join(f"{names.get(key, key)} {major}" for key, major in runtime.linked.items())


def _verdict_lines(verdict: Verdict) -> Iterator[str]:
    shown = verdict.name
    if verdict.runner != verdict.name:
        shown += f" ({verdict.runner})"
    if verdict.can_run:
        yield f"  yes  {shown} on {', '.join(verdict.devices)}"
    else:
        yield f"  no   {shown}"
    for sentence in (*verdict.obstacles, *verdict.remarks):
        yield f"         {sentence}"
