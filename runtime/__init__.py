"""Bundle to vectors: tokenise, patch, plan, run the compiled core, pool and project. No torch.

Names are loaded on first use: `import trine.runtime` reads no library but the standard one.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trine.runtime.embedder import Embedder
    from trine.runtime.errors import (
        BundleError,
        CheckpointError,
        DependencyError,
        EngineError,
        InputError,
        MemoryLimitError,
        TrineError,
    )
    from trine.runtime.inputs import ImageText, StreamItem
    from trine.runtime.outputs import Embedding, Embeddings
    from trine.runtime.scoring.similarity import TopK, cosine_similarity, maxsim, maxsim_top_k

_HOMES = {
    "BundleError": "errors",
    "CheckpointError": "errors",
    "DependencyError": "errors",
    "Embedder": "embedder",
    "Embedding": "outputs",
    "Embeddings": "outputs",
    "EngineError": "errors",
    "ImageText": "inputs",
    "InputError": "errors",
    "MemoryLimitError": "errors",
    "TrineError": "errors",
    "cosine_similarity": "scoring.similarity",
    "StreamItem": "inputs",
    "TopK": "scoring.similarity",
    "maxsim": "scoring.similarity",
    "maxsim_top_k": "scoring.similarity",
}

__all__ = [
    "BundleError",
    "CheckpointError",
    "DependencyError",
    "Embedder",
    "Embedding",
    "Embeddings",
    "EngineError",
    "ImageText",
    "InputError",
    "MemoryLimitError",
    "StreamItem",
    "TopK",
    "TrineError",
    "cosine_similarity",
    "maxsim",
    "maxsim_top_k",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trine.runtime' has no attribute {name!r}")
    return getattr(import_module(f"trine.runtime.{_HOMES[name]}"), name)
