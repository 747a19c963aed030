// Attention over packed sequences, without padding and without a score matrix: for each block of queries
// the keys pass by in blocks, and the softmax is kept up to date (online softmax, arXiv 1805.02867).
// Products, softmax statistics and sums are float32. Keys are laid out for the product first, once for
// all query heads that share them.
#include "pool.h"
#include "scratch.h"
#include "simd.h"
#include "tile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace trine {
namespace {

constexpr int64_t kQueries = 48;  // of a block: 8 tiles
constexpr int64_t kKeys = 128;    // of a block: 2 panels

struct Attention {
  const float *q, *k, *v;  // [tokens, heads * head_dim], row stride `stride`
  int64_t stride;
  float *out;  // [tokens, heads * head_dim], row stride `out_stride`; may be q's own place
  int64_t out_stride;
  const int64_t *starts;  // [sequences + 1], first token of each
  int64_t sequences;
  int64_t heads, kv_heads, head_dim;
  float *workspace;  // as many floats as trine_attention_workspace says
  float scale;
  int32_t causal;
  int32_t threads;
  int32_t reserved;
};

inline int64_t padded(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

inline int64_t padded_keys(const Attention &a, int64_t sequence) {
  return padded(a.starts[sequence + 1] - a.starts[sequence], kPanel);
}

// Floats of the packed keys and values of one sequence and one key head.
inline int64_t packed_size(int64_t keys, int64_t head_dim) {
  return keys * (head_dim + padded(head_dim, kLanes));
}

// Writes the transpose of 16 rows of 16 numbers: out[i * kPanel + j] = rows[j][i].
inline void transpose(__m512 (&r)[kLanes], float *out) {
  __m512 t[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  // r[4 * i + c] holds, in its lane l, column 4 * l + c of rows 4 * i to 4 * i + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xEE);
    const __m512 low23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xEE);
    _mm512_storeu_ps(out + c * kPanel, _mm512_shuffle_f32x4(low01, low23, 0x88));
    _mm512_storeu_ps(out + (4 + c) * kPanel, _mm512_shuffle_f32x4(low01, low23, 0xDD));
    _mm512_storeu_ps(out + (8 + c) * kPanel, _mm512_shuffle_f32x4(high01, high23, 0x88));
    _mm512_storeu_ps(out + (12 + c) * kPanel, _mm512_shuffle_f32x4(high01, high23, 0xDD));
  }
}

// Keys [keys, d] as panels [d][64], values [keys, d padded to 16], zeros beyond both.
void pack_keys(const Attention &a, int64_t sequence, int64_t head, float *keys, float *values) {
  const int64_t first = a.starts[sequence], count = a.starts[sequence + 1] - first;
  const int64_t d = a.head_dim, value_width = padded(d, kLanes), whole = d / kLanes * kLanes;
  const float *source = a.k + first * a.stride + head * d;
  for (int64_t start = 0; start < count; start += kLanes) {
    float *panel = keys + start / kPanel * kPanel * d + start % kPanel;
    for (int64_t i = 0; i < whole; i += kLanes) {
      __m512 rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j)
        rows[j] = start + j < count ? _mm512_loadu_ps(source + (start + j) * a.stride + i)
                                    : _mm512_setzero_ps();
      transpose(rows, panel + i * kPanel);
    }
    for (int64_t i = whole; i < d; ++i)
      for (int64_t j = 0; j < kLanes; ++j)
        panel[i * kPanel + j] = start + j < count ? source[(start + j) * a.stride + i] : 0.0f;
  }
  // Groups of a panel that no key reached.
  for (int64_t start = padded(count, kLanes); start < padded(count, kPanel); start += kLanes)
    for (int64_t i = 0; i < d; ++i)
      _mm512_storeu_ps(keys + start / kPanel * kPanel * d + start % kPanel + i * kPanel,
                       _mm512_setzero_ps());
  for (int64_t j = 0; j < count; ++j) {
    const float *row = a.v + (first + j) * a.stride + head * d;
    for (int64_t i = 0; i < value_width; i += kLanes)
      _mm512_storeu_ps(values + j * value_width + i,
                       _mm512_maskz_loadu_ps(lane_mask(d - i), row + i));
  }
}

struct Block {
  float *queries, *scores, *sums;  // [48, d], [48, 128], [48, d padded]
  float largest[kQueries], total[kQueries];
};

// Turns scores of one row into weights against the running maximum; rescales what it has so far.
inline void weigh_row(Block &b, int64_t row, int64_t keys, int64_t allowed, int64_t value_width) {
  float *scores = b.scores + row * kKeys;
  __m512 top = _mm512_set1_ps(b.largest[row]);
  for (int64_t j = 0; j < allowed; j += kLanes) {
    const __mmask16 m = lane_mask(allowed - j);
    top = _mm512_mask_max_ps(top, m, top, _mm512_loadu_ps(scores + j));
  }
  const float largest = _mm512_reduce_max_ps(top);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t j = 0; j < keys; j += kLanes) {
    const __m512 e = _mm512_maskz_mov_ps(
        lane_mask(allowed - j),
        exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(largest))));
    sum = _mm512_add_ps(sum, e);
    _mm512_storeu_ps(scores + j, e);
  }
  if (largest > b.largest[row]) {
    const float kept =
        b.total[row] > 0 ? std::exp(b.largest[row] - largest) : 0.0f;  // the first block keeps none
    b.total[row] *= kept;
    float *sums = b.sums + row * value_width;
    for (int64_t i = 0; i < value_width; i += kLanes)
      _mm512_storeu_ps(sums + i, _mm512_mul_ps(_mm512_loadu_ps(sums + i), _mm512_set1_ps(kept)));
    b.largest[row] = largest;
  }
  b.total[row] += _mm512_reduce_add_ps(sum);
}

template <int vectors>
void add_value_columns(Block &b, int64_t rows, int64_t keys, const float *values, int64_t column,
                       int64_t value_width) {
  multiply_float_rows<vectors>(rows, b.scores, kKeys, values + column, value_width, keys,
                               b.sums + column, value_width, true);
}

// Columns go in passes of like width: 5 vectors are 3 + 2, for a pass of 1 would wait for its sums.
void add_values(Block &b, int64_t rows, int64_t keys, const float *values, int64_t value_width) {
  const int64_t vectors = value_width / kLanes;
  const int64_t passes = (vectors + kPanelVectors - 1) / kPanelVectors;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = vectors * pass / passes, column = first * kLanes;
    switch (vectors * (pass + 1) / passes - first) {
      case 4: add_value_columns<4>(b, rows, keys, values, column, value_width); break;
      case 3: add_value_columns<3>(b, rows, keys, values, column, value_width); break;
      case 2: add_value_columns<2>(b, rows, keys, values, column, value_width); break;
      default: add_value_columns<1>(b, rows, keys, values, column, value_width);
    }
  }
}

void attend(const Attention &a, int64_t sequence, int64_t head, int64_t block, const float *keys,
            const float *values, Block &b) {
  const int64_t first = a.starts[sequence], count = a.starts[sequence + 1] - first;
  const int64_t d = a.head_dim, value_width = padded(d, kLanes);
  const int64_t start = block * kQueries, rows = std::min(kQueries, count - start);
  for (int64_t i = 0; i < rows; ++i) {
    const float *q = a.q + (first + start + i) * a.stride + head * d;
    for (int64_t j = 0; j < d; ++j) b.queries[i * d + j] = q[j] * a.scale;
    b.largest[i] = -std::numeric_limits<float>::infinity();
    b.total[i] = 0;
  }
  std::fill(b.sums, b.sums + rows * value_width, 0.0f);
  const int64_t visible = a.causal ? std::min(count, start + rows) : count;
  for (int64_t key = 0; key < visible; key += kKeys) {
    const int64_t in_block = std::min(kKeys, visible - key);
    for (int64_t p = 0; p < in_block; p += kPanel)
      multiply_float_rows<kPanelVectors>(rows, b.queries, d, keys + (key + p) * d, kPanel, d,
                                         b.scores + p, kKeys, false);
    const int64_t stored = padded(in_block, kLanes);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t allowed =
          a.causal ? std::clamp<int64_t>(start + i + 1 - key, 0, in_block) : in_block;
      if (allowed > 0) {
        weigh_row(b, i, stored, allowed, value_width);
      } else {
        std::fill(b.scores + i * kKeys, b.scores + i * kKeys + stored, 0.0f);
      }
    }
    add_values(b, rows, in_block, values + key * value_width, value_width);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const __m512 inverse = _mm512_set1_ps(1.0f / b.total[i]);
    float *out = a.out + (first + start + i) * a.out_stride + head * d;
    for (int64_t j = 0; j < d; j += kLanes)
      _mm512_mask_storeu_ps(out + j, lane_mask(d - j),
                            _mm512_mul_ps(_mm512_loadu_ps(b.sums + i * value_width + j), inverse));
  }
}

}  // namespace

// Floats that the workspace of trine_attention must hold.
TRINE_API int64_t trine_attention_workspace(const Attention *arguments) {
  int64_t keys = 0;
  for (int64_t s = 0; s < arguments->sequences; ++s) keys += padded_keys(*arguments, s);
  return packed_size(keys, arguments->head_dim) * arguments->kv_heads;
}

TRINE_API void trine_attention(const Attention *arguments) {
  const Attention &a = *arguments;
  const int64_t d = a.head_dim, value_width = padded(d, kLanes);
  const int64_t group = a.heads / a.kv_heads;
  // Where each sequence's packed keys and its items of work begin.
  std::vector<int64_t> places(a.sequences + 1), items(a.sequences + 1);
  for (int64_t s = 0; s < a.sequences; ++s) {
    const int64_t blocks = (a.starts[s + 1] - a.starts[s] + kQueries - 1) / kQueries;
    places[s + 1] = places[s] + packed_size(padded_keys(a, s), d) * a.kv_heads;
    items[s + 1] = items[s] + blocks * a.heads;
  }
  const auto keys_of = [&](int64_t s, int64_t kv_head) {
    return a.workspace + places[s] + packed_size(padded_keys(a, s), d) * kv_head;
  };
  parallel_for(a.threads, a.sequences * a.kv_heads, [&](int64_t i, int) {
    const int64_t s = i / a.kv_heads;
    float *keys = keys_of(s, i % a.kv_heads);
    pack_keys(a, s, i % a.kv_heads, keys, keys + padded_keys(a, s) * d);
  });
  Scratch scratch(a.threads, kQueries * (d + kKeys + value_width));
  parallel_for(a.threads, items[a.sequences], [&](int64_t i, int thread) {
    const int64_t s = std::upper_bound(items.begin(), items.end(), i) - items.begin() - 1;
    const int64_t blocks = (items[s + 1] - items[s]) / a.heads;
    const int64_t head = (i - items[s]) / blocks;
    // The last blocks see the most keys: first, so that the threads end together.
    const int64_t block = blocks - 1 - (i - items[s]) % blocks;
    Block b;
    b.scores = scratch.of(thread);
    b.sums = b.scores + kQueries * kKeys;
    b.queries = b.sums + kQueries * value_width;
    const float *keys = keys_of(s, head / group);
    attend(a, s, head, block, keys, keys + padded_keys(a, s) * d, b);
  });
}

}  // namespace trine
