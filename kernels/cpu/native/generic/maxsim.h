// Late-interaction scores: for each token of a query its best match among a document's, summed.
#pragma once

#include "../common/pool.h"
#include "../common/scratch.h"
#include "functions.h"

namespace trine::TRINE_ISA {

constexpr int kQueryPanel = 32;  // tokens of a query side by side
// A tile's rows are a document's, its columns two vectors of query tokens: 12 x 2 sums, 2 query vectors
// and an input fit 32 registers, 6 x 2 fit 16.
constexpr int kMatchVectors = 2, kMatchTokens = kMatchVectors * kLanes;
constexpr int kMatchRows = kLanes == 16 ? 12 : 6;

// `count` rows as float32, packed behind one another.
inline void widen(const MaxSim &a, int64_t document, int64_t first, int64_t count, float *out) {
  const void *base = a.documents[document];
  const int64_t begin = first * a.dim;
  for (int64_t i = 0; i < count * a.dim; i += kLanes) {
    const Mask m = lane_mask(count * a.dim - i);
    const Floats value = a.number == kFloat16 ? load_as_float<kFloat16>(base, begin + i, m)
                                              : load_as_float<kInt8>(base, begin + i, m);
    store(out + i, m, value);
  }
}

// Raises `best` to the products of some query tokens with `rows` rows. As many bytes from `next` on are
// brought into the cache meanwhile, a line at a time: in one go they would wait for each other.
template <int rows>
inline void match(const float *query, const float *document, int64_t dim, const char *next,
                  Floats *best) {
  Floats sums[rows][kMatchVectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kMatchVectors; ++v) sums[r][v] = zero();
  for (int64_t k = 0; k < dim; ++k) {
    __builtin_prefetch(next + k * rows * static_cast<int64_t>(sizeof(float)));
    Floats q[kMatchVectors];
    for (int v = 0; v < kMatchVectors; ++v) q[v] = load(query + k * kQueryPanel + v * kLanes);
    for (int r = 0; r < rows; ++r) {
      const Floats d = set(document[r * dim + k]);
      for (int v = 0; v < kMatchVectors; ++v) sums[r][v] = multiply_add(q[v], d, sums[r][v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kMatchVectors; ++v) best[v] = larger(best[v], sums[r][v]);
}

inline void match_document(const MaxSim &a, int64_t document, float *buffer) {
  float *scores = a.scores + document * a.panels * kQueryPanel;
  const Floats lowest = set(-__builtin_inff());
  for (int64_t i = 0; i < a.panels * kQueryPanel; i += kLanes) store(scores + i, lowest);
  for (int64_t first = 0; first < a.lengths[document]; first += kMatchRows) {
    const int64_t count = least(kMatchRows, a.lengths[document] - first);
    const float *rows = static_cast<const float *>(a.documents[document]) + first * a.dim;
    if (a.number != kFloat32) {
      widen(a, document, first, count, buffer);
      rows = buffer;
    }
    // What lies behind a document's last rows may belong to another; a prefetch does not mind.
    const char *next = reinterpret_cast<const char *>(rows + count * a.dim);
    for (int64_t token = 0; token < a.panels * kQueryPanel; token += kMatchTokens) {
      const float *query =
          a.queries + token / kQueryPanel * a.dim * kQueryPanel + token % kQueryPanel;
      Floats best[kMatchVectors];
      for (int v = 0; v < kMatchVectors; ++v) best[v] = load(scores + token + v * kLanes);
      if (count == kMatchRows)
        match<kMatchRows>(query, rows, a.dim, next, best);
      else
        for (int64_t r = 0; r < count; ++r) match<1>(query, rows + r * a.dim, a.dim, next, best);
      for (int v = 0; v < kMatchVectors; ++v) store(scores + token + v * kLanes, best[v]);
    }
  }
}

inline Status maxsim(const MaxSim &a) {
  // One document an item: long and short ones share out evenly.
  const Scratch buffers(a.threads, a.number == kFloat32 ? 0 : kMatchRows * a.dim + kLanes);
  if (!buffers) return kNoMemory;
  parallel_for(a.threads, a.count, [&](int64_t document, int thread) {
    match_document(a, document, buffers.of(thread));
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
