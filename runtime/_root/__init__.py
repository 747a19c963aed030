"""Trine: jina-embeddings-v4 on ONNX Runtime, without torch.

The public names live in `trine.runtime`; the most used are reachable from here. They are loaded on
first use, so that `import trine` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trine.runtime.embedder import Embedder
    from trine.runtime.inputs import ImageText, StreamItem
    from trine.runtime.outputs import Embedding, Embeddings

__all__ = ["Embedder", "Embedding", "Embeddings", "ImageText", "StreamItem"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'trine' has no attribute {name!r}; it has {__all__}")
    import trine.runtime

    return getattr(trine.runtime, name)
