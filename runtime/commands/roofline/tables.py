"""Rooflines as tables for people: stages of a run, and what each device could do at best."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.progress import format_bytes
from trine.runtime.commands.roofline.devices import DEVICES, PRECISIONS, DeviceSheet, RatePrecision
from trine.runtime.commands.roofline.prediction import predict, stage_bytes
from trine.runtime.commands.roofline.stages import Stage, image_grid, image_stages, text_stages

__all__ = [
    "Row",
    "Workload",
    "image_workload",
    "rate_rows",
    "rate_value",
    "stage_rows",
    "text_workload",
]

#: A row of a table.
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One run.

    Attributes:
        label: what goes in, for headings.
        unit: what is counted, "tokens" or "pages".
        count: how many of them the run has.
        tokens: of the run in the decoder.
        stages: of the run.
    """

    label: str
    unit: str
    count: int
    tokens: int
    stages: tuple[Stage, ...]

    @property
    def operations(self) -> int:
        return sum(stage.operations for stage in self.stages)


def text_workload(
    model: ModelConfig, batch: int, length: int, lora_rank: int = 0, multi: bool = False
) -> Workload:
    """Return a run of `batch` texts of `length` tokens each.

    Args:
        model: the numbers.
        batch: how many texts.
        length: tokens of each, prefix included.
        lora_rank: of the adapter added at run time; 0 where it is merged.
        multi: whether multi-vectors are made, instead of single vectors.
    """
    return Workload(
        label=f"{batch} {'text' if batch == 1 else 'texts'} of {length} tokens",
        unit="tokens",
        count=batch * length,
        tokens=batch * length,
        stages=text_stages(model, [length] * batch, lora_rank, multi),
    )


def image_workload(
    model: ModelConfig,
    batch: int,
    size: tuple[int, int],
    scaffold_tokens: int,
    lora_rank: int = 0,
    multi: bool = False,
) -> Workload:
    """Return a run of `batch` images.

    Args:
        model: the numbers.
        batch: how many images, an item each.
        size: (height, width) in pixels, before the model's own resizing.
        scaffold_tokens: of the image prompt around the image's tokens.
        lora_rank, multi: as in `text_workload`.

    Raises:
        InputError: one side is more than 200 times the other.
    """
    grid = image_grid(model, *size)
    patches = grid[0] * grid[1]
    length = patches // model.vision.spatial_merge_size**2 + scaffold_tokens
    return Workload(
        label=f"{batch} {'page' if batch == 1 else 'pages'} of {size[1]}×{size[0]} pixels: "
        f"{patches} patches and {length} tokens each",
        unit="pages",
        count=batch,
        tokens=batch * length,
        stages=image_stages(model, grid, batch, scaffold_tokens, lora_rank, multi),
    )


def stage_rows(workload: Workload, precision: RatePrecision) -> Iterator[Row]:
    """Yield a heading, a row a stage, and their sum, for one run in `precision`."""
    yield "stage", "operations (10⁹)", "share", "weights read", "all bytes", "operations a byte"
    total_bytes = 0
    for stage in workload.stages:
        num_bytes = stage_bytes(stage, precision)
        total_bytes += num_bytes
        yield _stage_row(
            stage.name, stage.operations, workload.operations, stage.weights, num_bytes
        )
    weights = sum(stage.weights for stage in workload.stages)
    yield _stage_row("sum", workload.operations, workload.operations, weights, total_bytes)


def _stage_row(name: str, operations: int, total: int, weights: int, num_bytes: int) -> Row:
    return (
        name,
        f"{operations / 1e9:,.1f}",
        f"{operations / total:.1%}",
        f"{weights / 1e6:,.1f} M",
        format_bytes(num_bytes),
        f"{operations / num_bytes:,.0f}",
    )


def rate_rows(
    workload: Workload,
    devices: Iterable[DeviceSheet] = DEVICES,
    precisions: Sequence[RatePrecision] = PRECISIONS,
) -> Iterator[Row]:
    """Yield a heading and a row a device: predicted best tokens or pages a second by precision."""
    yield (f"predicted best {workload.unit}/s", *precisions)
    for device in devices:
        cells = (rate_value(workload, device, precision) for precision in precisions)
        yield (device.name, *("–" if rate is None else _rate(rate) for rate in cells))


def rate_value(workload: Workload, device: DeviceSheet, precision: RatePrecision) -> float | None:
    """Return the predicted best rate; None where the device lacks the precision or the memory."""
    found = predict(workload.stages, device, precision)
    return None if found is None else workload.count / found.seconds


def _rate(rate: float) -> str:
    """Return a rate with three digits that count."""
    if rate >= 1000:
        return f"{float(f'{rate:.3g}'):,.0f}"
    return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"
