// Attention over packed sequences, without padding and without a score matrix: for each block of queries
// the keys pass by in blocks, and the softmax is kept up to date (online softmax, arXiv 1805.02867).
// Softmax statistics and sums are float32. Keys are laid out for the product first, once for all query
// heads that share them. `Half` says which factors are rounded, and how: Float32Only, or that of
// avx512_bf16/bfloat16.h.
#pragma once

#include <math.h>

#include "../common/pool.h"
#include "../common/scratch.h"
#include "tile.h"

namespace trine::TRINE_ISA {

constexpr int64_t kQueries = 48;  // of a block: 8 tiles
constexpr int64_t kKeys = 128;    // of a block: whole panels of kTile keys

// What is computed of one sequence, and where its part of the workspace and of the items begins.
struct Part {
  int64_t first;         // its first token
  int64_t start, end;    // its queries, counted from there
  int64_t keys;          // that one of them sees
  int64_t place, item;

  int64_t padded_keys() const { return padded(keys, kTile); }
  int64_t blocks() const { return (end - start + kQueries - 1) / kQueries; }
};

inline Part part_of(const Attention &a, int64_t sequence) {
  const int64_t first = a.starts[sequence], last = a.starts[sequence + 1];
  const int64_t start = most(first, a.first_query), end = least(last, a.last_query);
  if (start >= end) return {first, 0, 0, 0, 0, 0};
  return {first, start - first, end - first, (a.causal ? end : last) - first, 0, 0};
}

// Nothing is rounded.
struct Float32Only {
  static constexpr bool kAvailable = false;
};

// Floats of a packed key, and of a packed value.
template <class Half>
int64_t key_size(const Attention &a) {
  if constexpr (Half::kAvailable)
    if (a.half) return most(a.head_dim, Half::key_size(a.head_dim));
  return a.head_dim;
}

template <class Half>
int64_t value_size(const Attention &a) {
  if constexpr (Half::kAvailable)
    if (a.half) return Half::value_size(a.head_dim);
  return padded(a.head_dim, kLanes);
}

// Of the packed keys and values of one sequence and one key head.
template <class Half>
int64_t packed_size(const Attention &a, const Part &part) {
  return part.padded_keys() * (key_size<Half>(a) + value_size<Half>(a));
}

// Values [count, d] as float32 [count, d padded to vectors].
inline void pack_values(const float *source, int64_t stride, int64_t count, int64_t d, float *values) {
  const int64_t width = padded(d, kLanes);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < width; i += kLanes)
      store(values + j * width + i, load(source + j * stride + i, lane_mask(d - i)));
}

// Keys [keys, d] as panels [d][kTile], zeros beyond.
inline void pack_keys(const Attention &a, const Part &part, int64_t head, float *keys) {
  const int64_t count = part.keys, d = a.head_dim, whole = d / kLanes * kLanes;
  const float *source = a.k + part.first * a.kv_stride + head * d;
  for (int64_t start = 0; start < count; start += kLanes) {
    float *panel = keys + start / kTile * kTile * d + start % kTile;
    for (int64_t i = 0; i < whole; i += kLanes) {
      Floats rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j)
        rows[j] = start + j < count ? load(source + (start + j) * a.kv_stride + i)
                                    : zero();
      transpose(rows, panel + i * kTile, kTile);
    }
    for (int64_t i = whole; i < d; ++i)
      for (int64_t j = 0; j < kLanes; ++j)
        panel[i * kTile + j] = start + j < count ? source[(start + j) * a.kv_stride + i] : 0.0f;
  }
  // Groups of a panel that no key reached.
  for (int64_t start = padded(count, kLanes); start < padded(count, kTile); start += kLanes)
    for (int64_t i = 0; i < d; ++i)
      store(keys + start / kTile * kTile * d + start % kTile + i * kTile,
                       zero());
}

struct Block {
  float *queries, *scores, *sums;  // [48, d], [48, 128], [48, d padded]
  float largest[kQueries], total[kQueries];
};

// The weight of a score below the largest: e^x, or 2^x where it is rounded.
template <class Half, bool half>
inline Floats weight_of(Floats x) {
  if constexpr (half)
    return Half::weight_of(x);
  else
    return exponential(x);
}

// Writes weights where their scores were; returns them as they will be multiplied.
template <class Half, bool half>
inline Floats store_weights(float *row, int64_t column, Floats weights) {
  if constexpr (half) return Half::store_weights(row, column, weights);
  store(row + column, weights);
  return weights;
}

// Turns scores of one row into weights against the running maximum; rescales what it has so far.
template <class Half, bool half>
inline void weigh_row(Block &b, int64_t row, int64_t keys, int64_t allowed, int64_t value_width) {
  float *scores = b.scores + row * kKeys;
  Floats top = set(b.largest[row]);
  for (int64_t j = 0; j < allowed; j += kLanes) {
    const Mask m = lane_mask(allowed - j);
    top = larger_where(top, m, load(scores + j));
  }
  const float largest = largest_of(top);
  Floats sum = zero();
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Floats e = keep(
        lane_mask(allowed - j),
        weight_of<Half, half>(subtract(load(scores + j), set(largest))));
    sum = add(sum, store_weights<Half, half>(scores, j, e));
  }
  if (largest > b.largest[row]) {
    const float less = b.largest[row] - largest;
    // The first block keeps none.
    const float kept = b.total[row] <= 0 ? 0.0f : half ? exp2f(less) : expf(less);
    b.total[row] *= kept;
    float *sums = b.sums + row * value_width;
    for (int64_t i = 0; i < value_width; i += kLanes)
      store(sums + i, multiply(load(sums + i), set(kept)));
    b.largest[row] = largest;
  }
  b.total[row] += sum_of(sum);
}

// How what stands in the place of a float32 is multiplied.
template <class Half, bool half>
struct FormatOf {
  using Type = Float32;
};

template <class Half>
struct FormatOf<Half, true> {
  using Type = typename Half::Format;
};

template <class Half, bool half, int vectors>
void add_value_columns(Block &b, int64_t rows, int64_t keys, const float *values, int64_t column,
                       int64_t width) {
  if constexpr (vectors <= kTileVectors)
    multiply_rows<typename FormatOf<Half, half>::Type, vectors>(
        rows, b.scores, kKeys, values + column, width, half ? (keys + 1) / 2 : keys, b.sums + column,
        width, true);
}

// Columns go in passes of like width: 5 vectors are 3 + 2, for a pass of 1 would wait for its sums.
template <class Half, bool half>
void add_values(Block &b, int64_t rows, int64_t keys, const float *values, int64_t width) {
  const int64_t vectors = width / kLanes;
  const int64_t passes = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = vectors * pass / passes, column = first * kLanes;
    switch (vectors * (pass + 1) / passes - first) {
      case 4: add_value_columns<Half, half, 4>(b, rows, keys, values, column, width); break;
      case 3: add_value_columns<Half, half, 3>(b, rows, keys, values, column, width); break;
      case 2: add_value_columns<Half, half, 2>(b, rows, keys, values, column, width); break;
      default: add_value_columns<Half, half, 1>(b, rows, keys, values, column, width);
    }
  }
}

// A query as the product reads it, scaled.
inline void take_query(const float *q, int64_t d, float scale, float *out) {
  const Floats factor = set(scale);
  for (int64_t j = 0; j < d; j += kLanes)
    store(out + j, lane_mask(d - j), multiply(load(q + j, lane_mask(d - j)), factor));
}

inline void fill(float *to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, lane_mask(count - i), zero());
}

template <class Half, bool half>
void attend(const Attention &a, const Part &part, int64_t head, int64_t block, bool half_scores,
            const float *keys, const float *values, Block &b) {
  const int64_t d = a.head_dim, value_width = padded(d, kLanes);
  const int64_t start = part.start + block * kQueries, rows = least(kQueries, part.end - start);
  const int64_t place = part.first + start - a.first_query;  // of the block among queries
  for (int64_t i = 0; i < rows; ++i) {
    const float *q = a.q + (place + i) * a.q_stride + head * d;
    if constexpr (half) {
      Half::take_query(q, d, a.scale, half_scores, b.queries + i * d);
    } else {
      take_query(q, d, a.scale, b.queries + i * d);
    }
    b.largest[i] = -__builtin_inff();
    b.total[i] = 0;
  }
  fill(b.sums, rows * value_width);
  const int64_t visible = a.causal ? start + rows : part.keys;
  for (int64_t key = 0; key < visible; key += kKeys) {
    const int64_t in_block = least(kKeys, visible - key);
    for (int64_t p = 0; p < in_block; p += kTile) {
      if constexpr (half) {
        if (half_scores) {
          multiply_rows<typename Half::Format, kTileVectors>(
              rows, b.queries, d, keys + (key + p) * Half::key_size(d), kTile, (d + 1) / 2,
              b.scores + p, kKeys, false);
          continue;
        }
      }
      multiply_rows<Float32, kTileVectors>(rows, b.queries, d, keys + (key + p) * d, kTile, d,
                                           b.scores + p, kKeys, false);
    }
    const int64_t stored = padded(in_block, kLanes);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t allowed =
          a.causal ? most(least(start + i + 1 - key, in_block), 0) : in_block;
      if (allowed > 0) {
        weigh_row<Half, half>(b, i, stored, allowed, value_width);
      } else {
        fill(b.scores + i * kKeys, stored);
      }
    }
    add_values<Half, half>(b, rows, in_block, values + key * value_size<Half>(a),
                     value_width);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const Floats inverse = set(1.0f / b.total[i]);
    float *out = a.out + (place + i) * a.out_stride + head * d;
    for (int64_t j = 0; j < d; j += kLanes)
      store(out + j, lane_mask(d - j),
                            multiply(load(b.sums + i * value_width + j), inverse));
  }
}

// The parts of all sequences; returns the floats of their packed keys and values.
template <class Half>
int64_t lay_out(const Attention &a, Part *parts) {
  int64_t place = 0, item = 0;
  for (int64_t s = 0; s < a.sequences; ++s) {
    parts[s] = part_of(a, s);
    parts[s].place = place;
    parts[s].item = item;
    place += packed_size<Half>(a, parts[s]) * a.kv_heads;
    item += parts[s].blocks() * a.heads;
  }
  parts[a.sequences] = {0, 0, 0, 0, place, item};
  return place;
}

// The last sequence that begins at an item or before it.
inline int64_t sequence_of(const Part *parts, int64_t sequences, int64_t item) {
  int64_t low = 0, high = sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (parts[middle].item <= item ? low : high) = middle;
  }
  return low;
}

// Packs keys and values of one sequence and one key head; returns whether its scores are rounded.
template <class Half>
bool pack_head(const Attention &a, const Part &part, int64_t head, float *keys) {
  float *values = keys + part.padded_keys() * key_size<Half>(a);
  const float *source = a.v + part.first * a.kv_stride + head * a.head_dim;
  if constexpr (Half::kAvailable) {
    if (a.half) {
      const bool rounded = Half::scores_allow(a, part, head);
      if (rounded) {
        Half::pack_keys(a, part, head, keys);
      } else {
        pack_keys(a, part, head, keys);
      }
      Half::pack_values(source, a.kv_stride, part.keys, a.head_dim, values);
      return rounded;
    }
  }
  pack_keys(a, part, head, keys);
  pack_values(source, a.kv_stride, part.keys, a.head_dim, values);
  return false;
}

template <class Half>
Status attention(const Attention &a) {
  const int64_t d = a.head_dim, value_width = padded(d, kLanes), group = a.heads / a.kv_heads;
  const int64_t heads = a.sequences * a.kv_heads;
  const Scratch parts_memory(1, (a.sequences + 1) * static_cast<int64_t>(sizeof(Part) / sizeof(float)));
  const Scratch rounded_memory(1, heads);
  if (!parts_memory || !rounded_memory) return kNoMemory;
  Part *parts = reinterpret_cast<Part *>(parts_memory.of(0));
  float *rounded = rounded_memory.of(0);  // 1 for those heads whose scores are, else 0
  const Scratch workspace(1, lay_out<Half>(a, parts));
  const Scratch scratch(a.threads, kQueries * (d + kKeys + value_width));
  if (!workspace || !scratch) return kNoMemory;
  const auto keys_of = [&](const Part &part, int64_t kv_head) {
    return workspace.of(0) + part.place + packed_size<Half>(a, part) * kv_head;
  };
  parallel_for(a.threads, heads, [&](int64_t i, int) {
    const Part &part = parts[i / a.kv_heads];
    const int64_t head = i % a.kv_heads;
    rounded[i] = pack_head<Half>(a, part, head, keys_of(part, head)) ? 1.0f : 0.0f;
  });
  parallel_for(a.threads, parts[a.sequences].item, [&](int64_t i, int thread) {
    const int64_t s = sequence_of(parts, a.sequences, i);
    const Part &part = parts[s];
    const int64_t head = (i - part.item) / part.blocks();
    // The last blocks see the most keys: first, so that the threads end together.
    const int64_t block = part.blocks() - 1 - (i - part.item) % part.blocks();
    Block b;
    b.scores = scratch.of(thread);
    b.sums = b.scores + kQueries * kKeys;
    b.queries = b.sums + kQueries * value_width;
    const float *keys = keys_of(part, head / group);
    const float *values = keys + part.padded_keys() * key_size<Half>(a);
    if constexpr (Half::kAvailable) {
      if (a.half) {
        attend<Half, true>(a, part, head, block, rounded[s * a.kv_heads + head / group] != 0, keys,
                           values, b);
        return;
      }
    }
    attend<Half, false>(a, part, head, block, false, keys, values, b);
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
