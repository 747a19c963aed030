"""A linear layer with weights in 4 bits for ONNX Runtime: MatMulNBits, blocks of inputs.

It saves memory, not time: activations enter in 8 bits by blocks (accuracy level 4), which needs
more multiplications' overhead than a scale for each row.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB, GraphBuilder, Weight
from trine.export.quantisation.weights import BlockWeights, quantise_blocks

__all__ = ["add_int4_linear"]

#: ONNX Runtime's number for products of 8-bit activations; 1 would be float32.
ACCURACY_LEVEL = 4


class _Quantised:
    """The tensors of one quantised weight, which is read and searched once."""

    def __init__(self, weight: Weight, block: int, importance: NDArray[np.float32] | None) -> None:
        self._weight = weight
        self._block = block
        self._importance = importance
        self._small: BlockWeights | None = None

    def values(self) -> NDArray[np.uint8]:
        quantised = self._quantise()
        # Scales and zeros stay until they are written, which is next; the values need not.
        self._small = BlockWeights(np.empty(0, np.uint8), quantised.scales, quantised.zeros)
        return quantised.values

    def scales(self) -> NDArray[np.float32]:
        return (self._small or self._quantise()).scales.reshape(-1)

    def zeros(self) -> NDArray[np.uint8]:
        zeros = (self._small or self._quantise()).zeros
        self._small = None
        return zeros.reshape(-1)

    def _quantise(self) -> BlockWeights:
        weight = np.asarray(self._weight.read(), np.float32)
        return quantise_blocks(weight, self._block, self._importance)


def add_int4_linear(
    graph: GraphBuilder,
    name: str,
    x: ir.Value,
    weight: Weight,
    block: int,
    importance: NDArray[np.float32] | None,
) -> ir.Value:
    """Return float32 [T, out]: `x` · `weight` with the weight quantised.

    Args:
        graph: to add to.
        name: of the layer.
        x: float32 [T, in].
        weight: float32 [in, out], unread.
        block: inputs that share a scale.
        importance: float32 [in], as `quantise_blocks` takes it.
    """
    num_in, num_out = weight.shape
    blocks = -(-num_in // block)
    quantised = _Quantised(weight, block, importance)
    shapes = {
        "int4": (num_out, blocks, block // 2),
        "scales": (num_out * blocks,),
        "zeros": (num_out * -(-blocks // 2),),
    }
    return graph.node(
        name,
        "MatMulNBits",
        [
            x,
            graph.weight(
                Weight(f"{name}.int4", shapes["int4"], quantised.values, ir.DataType.UINT8)
            ),
            graph.weight(Weight(f"{name}.scales", shapes["scales"], quantised.scales)),
            graph.weight(
                Weight(f"{name}.zeros", shapes["zeros"], quantised.zeros, ir.DataType.UINT8)
            ),
        ],
        {
            "K": num_in,
            "N": num_out,
            "bits": 4,
            "block_size": block,
            "accuracy_level": ACCURACY_LEVEL,
        },
        CONTRIB,
    )
