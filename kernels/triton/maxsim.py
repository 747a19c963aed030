"""Late-interaction scores of many documents; reference: `kernels.maxsim`.

One program a pair of query and document. Products of 16-bit vectors are exact in float32, sums run
in float32; float32 vectors are multiplied as three passes of tf32.
"""

import triton
import triton.language as tl

__all__ = ["maxsim"]


@triton.jit
def maxsim(
    queries: tl.tensor,
    cu_queries: tl.tensor,
    documents: tl.tensor,
    cu_documents: tl.tensor,
    dim: tl.tensor,
    num_documents: tl.tensor,
    scores: tl.tensor,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write float32 [queries, documents]: score = Σ_i max_j q_i · d_j.

    A query without tokens scores 0. Grid: (documents, queries).

    Args:
        queries: [tokens, dim], C-order, queries behind one another.
        cu_queries: int32 [queries + 1], where each starts, and the end.
        documents: [tokens, dim], the queries' type, documents of at least one token each.
        cu_documents: int32 [documents + 1].
        dim: a multiple of 16 in compiled kernels, at most BLOCK_D.
        num_documents: columns of `scores`.
        scores: float32 [queries, documents].
    """
    document = tl.program_id(0)
    query = tl.program_id(1)
    query_start = tl.load(cu_queries + query)
    query_end = tl.load(cu_queries + query + 1)
    document_start = tl.load(cu_documents + document)
    document_end = tl.load(cu_documents + document + 1)
    column = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for first_query in range(query_start, query_end, BLOCK_Q):
        i = first_query + tl.arange(0, BLOCK_Q)
        q_mask = (i < query_end)[:, None] & (column < dim)[None, :]
        q_place = i.to(tl.int64)[:, None] * dim + column[None, :]
        q = tl.load(queries + q_place, mask=q_mask, other=0.0)
        best = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        for first in range(document_start, document_end, BLOCK_T):
            j = first + tl.arange(0, BLOCK_T)
            d_mask = (column < dim)[:, None] & (j < document_end)[None, :]
            d_place = j.to(tl.int64)[None, :] * dim + column[:, None]
            d = tl.load(documents + d_place, mask=d_mask, other=0.0)
            match = tl.dot(q, d, input_precision="tf32x3")
            match = tl.where((j < document_end)[None, :], match, float("-inf"))
            best = tl.maximum(best, tl.max(match, axis=1))
        total += tl.where(i < query_end, best, 0.0)
    place = query.to(tl.int64) * num_documents + document
    tl.store(scores + place, tl.sum(total, axis=0))
