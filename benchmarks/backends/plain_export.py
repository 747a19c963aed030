"""The decoder by torch.onnx.export as it comes, and its dynamic INT8 by ONNX Runtime's tool.

Made once into the work folder, by `python benchmarks/backends/plain_export.py`, in a process of its
own: what exporting takes is no part of any measurement.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backends.contract import Setup
from backends.published_model import merged_model, pooled

__all__ = ["export_plain", "quantise_plain"]


def export_plain(setup: Setup, path: Path) -> None:
    """Write the text part, float32: input_ids and attention_mask, int64 [B, S], to unit vectors."""
    import torch

    class Decoder(torch.nn.Module):
        """Token ids to pooled, normalised vectors."""

        def __init__(self, language: Any) -> None:
            super().__init__()
            self.language = language

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            output = self.language(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            )
            return pooled(output.last_hidden_state, attention_mask)

    model = Decoder(merged_model(setup, "float32", setup.task).language_model).eval()
    ids = torch.ones((2, 7), dtype=torch.int64)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with torch.inference_mode():
        torch.onnx.export(
            model,
            (ids, torch.ones_like(ids)),
            str(path),
            dynamo=True,
            external_data=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
        )


def quantise_plain(source: Path, path: Path) -> None:
    """Write ONNX Runtime's dynamic INT8 of a graph: weights by channel, activations by tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )


def main() -> None:
    """Make both files that are missing: CHECKPOINT WORK TASK."""
    checkpoint, work, task = sys.argv[1:]
    setup = Setup(
        checkpoint=Path(checkpoint),
        bundle=Path(work),
        work=Path(work),
        task=task,
        threads=1,
        num_ids=0,
        excluded=(),
    )
    setup.work.mkdir(parents=True, exist_ok=True)
    plain, int8 = setup.work / "plain.onnx", setup.work / "plain-int8.onnx"
    if not plain.exists():
        export_plain(setup, plain)
    if not int8.exists():
        quantise_plain(plain, int8)


if __name__ == "__main__":
    main()
