"""The page docs/roofline.md: rooflines of one model in Markdown."""

from collections.abc import Iterable, Iterator

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.roofline.devices import DEVICES, PRECISIONS
from trine.runtime.commands.roofline.tables import (
    Row,
    Workload,
    image_workload,
    rate_rows,
    stage_rows,
    text_workload,
)

__all__ = ["A4_150_DPI", "TEXT_RUNS", "roofline_page"]

#: (height, width) in pixels of an A4 page at 150 dots an inch.
A4_150_DPI = (1754, 1240)
#: (texts, tokens of each): one short query, a batch of passages, long documents.
TEXT_RUNS = ((1, 32), (16, 512), (2, 4096))
#: Pages a run: one, and enough that weights are read for several.
IMAGE_RUNS = (1, 8)

INTRODUCTION = """\
# Roofline: what GPUs could do at best

**Every rate on this page is a prediction from data sheets. Nothing here was measured**: no engine
was run on these devices for it. With the same arithmetic no program can be faster than these rates,
and every program is slower. `python benchmarks/gpu.py BUNDLE` measures on a GPU machine and sets
the two side by side.

The page is computed from the published numbers of {title} by
`python benchmarks/roofline_page.py`; `trine roofline BUNDLE` prints the same tables for the model
of any bundle.

How a time is predicted: each stage takes as long as its operations at the device's dense rate or
its bytes at the memory's bandwidth, whichever is longer, and the stages follow one another.
Weights, inputs and outputs of a product are moved once; norms, activations and rotations cost
nothing. `bf16` also stands for fp16. In `fp8` and `int8` the linear layers have 8 bits, attention
16. Pooling is float32. Adapters are merged, and single vectors are made. Preparing texts and
images on the processor is not part of it."""


def roofline_page(model: ModelConfig, title: str, scaffold_tokens: int) -> str:
    """Return the page for a model, as Markdown.

    Args:
        model: the numbers.
        title: what the model is called.
        scaffold_tokens: of the image prompt around an image's own tokens.
    """
    texts = [text_workload(model, batch, length) for batch, length in TEXT_RUNS]
    pages = [image_workload(model, batch, A4_150_DPI, scaffold_tokens) for batch in IMAGE_RUNS]
    lines = [INTRODUCTION.format(title=title), "", "## Devices", "", *_device_table(), ""]
    lines += ["Dense rates in 10¹² operations a second. Sources:", ""]
    lines += [f"- {device.name}: {device.source}." for device in DEVICES]
    lines += ["", "## Texts", ""]
    for workload in texts:
        lines += [*_rate_section(workload), ""]
    lines += ["## Pages", "", "An A4 page at 150 dots an inch, as an image.", ""]
    for workload in pages:
        lines += [*_rate_section(workload), ""]
    lines += ["## Where the operations are", ""]
    for workload in (texts[1], pages[1]):
        lines += [f"{workload.label}, bf16:", "", *_markdown(stage_rows(workload, "bf16")), ""]
    return "\n".join(lines).rstrip() + "\n"


def _rate_section(workload: Workload) -> Iterator[str]:
    operations = workload.operations / workload.count
    yield f"{workload.label}: {operations / 1e9:,.1f}·10⁹ operations {_a_unit(workload)}."
    yield ""
    yield from _markdown(rate_rows(workload))


def _a_unit(workload: Workload) -> str:
    return "a token" if workload.unit == "tokens" else "a page"


def _device_table() -> Iterator[str]:
    rows: list[Row] = [("device", "sm", *PRECISIONS, "GB/s", "GB")]
    for device in DEVICES:
        rates = device.tera_operations
        rows.append(
            (
                device.name,
                str(device.sm),
                *(f"{rates[p]:g}" if p in rates else "–" for p in PRECISIONS),
                f"{device.bandwidth:g}",
                f"{device.memory:g}",
            )
        )
    yield from _markdown(rows)


def _markdown(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a Markdown table; the first row is the heading, numbers stand to the right."""
    for index, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if index == 0:
            yield f"| --- |{' ---: |' * (len(row) - 1)}"
