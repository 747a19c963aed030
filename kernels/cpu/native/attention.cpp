// Attention over packed sequences, without padding and without a score matrix: for each block of queries
// the keys pass by in blocks, and the softmax is kept up to date (online softmax, arXiv 1805.02867).
// Softmax statistics and sums are float32. Factors are rounded to bfloat16 where the processor multiplies
// those: weights and values always, for weights are at most 1 and values are averaged; queries and keys
// only where that moves no score by much, for scores are exponents, and keys may carry biases that drown
// what a query looks for. Keys are laid out for the product first, once for all query heads that share
// them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "pool.h"
#include "scratch.h"
#include "simd.h"

// Compilers make no bfloat16 instructions from float32 code, so only what `half` chooses has any.
#pragma GCC target("avx512bf16")
#include "tile.h"

namespace trine {
namespace {

constexpr int64_t kQueries = 48;  // of a block: 8 tiles
constexpr int64_t kKeys = 128;    // of a block: 2 panels

// Rounding to bfloat16 errs by up to 2^-9 of a number, by 2^-9 / sqrt(3) in the root mean square, and as
// much again in the other factor; the errors of a product's terms add up as a random walk does.
constexpr float kRounding = 1.6e-3f;
// The error of a score that is left to bfloat16, in the root mean square. Rounding a layer to 8 bits
// moves scores by about a hundredth of what they are.
constexpr float kScoreError = 0.01f;

constexpr float kLog2E = 1.44269504f;

struct Attention {
  const float *q;     // [last_query - first_query, heads * head_dim], row stride `q_stride`
  const float *k, *v;  // [tokens, kv_heads * head_dim], row stride `kv_stride`
  int64_t q_stride, kv_stride;
  float *out;  // [last_query - first_query, heads * head_dim], row stride `out_stride`; may be q's own place
  int64_t out_stride;
  const int64_t *starts;  // [sequences + 1], first token of each
  int64_t sequences;
  int64_t first_query, last_query;  // the tokens whose queries are given
  int64_t heads, kv_heads, head_dim;
  float *workspace;  // as many floats as trine_attention_workspace says
  float scale;
  int32_t causal;
  int32_t threads;
  int32_t half;  // whether factors may be bfloat16
};

inline int64_t padded(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// What is computed of one sequence.
struct Part {
  int64_t first;         // its first token
  int64_t start, end;    // its queries, counted from there
  int64_t keys;          // that one of them sees

  int64_t padded_keys() const { return padded(keys, kPanel); }
  int64_t blocks() const { return (end - start + kQueries - 1) / kQueries; }
};

inline Part part_of(const Attention &a, int64_t sequence) {
  const int64_t first = a.starts[sequence], last = a.starts[sequence + 1];
  const int64_t start = std::max(first, a.first_query), end = std::min(last, a.last_query);
  if (start >= end) return {first, 0, 0, 0};
  return {first, start - first, end - first, (a.causal ? end : last) - first};
}

// Floats of a packed key, and of a packed value; bfloat16 come in pairs, and keys by 16 of those.
inline int64_t key_size(const Attention &a) {
  return a.half ? std::max(a.head_dim, padded(a.head_dim, 2 * kLanes) / 2) : a.head_dim;
}

inline int64_t value_size(const Attention &a) {
  return a.half ? padded(a.head_dim, kLanes) / 2 : padded(a.head_dim, kLanes);
}

// Of the packed keys and values of one sequence and one key head.
inline int64_t packed_size(const Attention &a, const Part &part) {
  return part.padded_keys() * (key_size(a) + value_size(a));
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

// Values [count, d] as float32 [count, d padded to 16].
void pack_values(const float *source, int64_t stride, int64_t count, int64_t d, float *values) {
  const int64_t width = padded(d, kLanes);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < width; i += kLanes)
      _mm512_storeu_ps(values + j * width + i,
                       _mm512_maskz_loadu_ps(lane_mask(d - i), source + j * stride + i));
}

// Values [count, d] as bfloat16 [count / 2, d padded to 16, 2], zeros after the last.
void pack_half_values(const float *source, int64_t stride, int64_t count, int64_t d, float *values) {
  const int64_t width = padded(d, kLanes);
  for (int64_t j = 0; j < count; j += 2)
    for (int64_t i = 0; i < width; i += kLanes) {
      const float *at = source + j * stride + i;
      const __mmask16 mask = lane_mask(d - i);
      const __m512 even = _mm512_maskz_loadu_ps(mask, at);
      const __m512 odd = j + 1 < count ? _mm512_maskz_loadu_ps(mask, at + stride) : _mm512_setzero_ps();
      const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
      const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
      _mm512_storeu_si512(values + j / 2 * width + i,
                          _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

// Keys [keys, d] as bfloat16 in panels [d / 2][64][2], zeros beyond.
void pack_half_keys(const Attention &a, const Part &part, int64_t head, float *keys) {
  const int64_t d = a.head_dim, size = padded(d, 2 * kLanes) / 2;
  const float *source = a.k + part.first * a.kv_stride + head * d;
  for (int64_t start = 0; start < part.padded_keys(); start += kLanes) {
    float *panel = keys + start / kPanel * kPanel * size + start % kPanel;
    for (int64_t i = 0; i < d; i += 2 * kLanes) {
      __m512 rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        const bool there = start + j < part.keys;
        const float *at = source + (start + j) * a.kv_stride + i;
        const __m512 low = _mm512_maskz_loadu_ps(there ? lane_mask(d - i) : 0, at);
        const __m512 high = _mm512_maskz_loadu_ps(there ? lane_mask(d - i - kLanes) : 0, at + kLanes);
        rows[j] = (__m512)_mm512_cvtne2ps_pbh(high, low);
      }
      transpose(rows, panel + i / 2 * kPanel);
    }
  }
}

// The largest square of a row's norm.
float largest_square(const float *rows, int64_t stride, int64_t count, int64_t d) {
  float largest = 0;
  for (int64_t j = 0; j < count; ++j) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i += kLanes) {
      const __m512 x = _mm512_maskz_loadu_ps(lane_mask(d - i), rows + j * stride + i);
      sum = _mm512_fmadd_ps(x, x, sum);
    }
    largest = std::max(largest, _mm512_reduce_add_ps(sum));
  }
  return largest;
}

// Whether bfloat16 is good enough for the scores of one sequence and the queries of one key head.
bool scores_in_half(const Attention &a, const Part &part, int64_t kv_head) {
  const int64_t d = a.head_dim, group = a.heads / a.kv_heads;
  const float *k = a.k + part.first * a.kv_stride + kv_head * d;
  const float *q = a.q + (part.first + part.start - a.first_query) * a.q_stride;
  float queries = 0;
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    queries = std::max(queries,
                       largest_square(q + head * d, a.q_stride, part.end - part.start, d));
  const float largest = std::sqrt(queries) * std::sqrt(largest_square(k, a.kv_stride, part.keys, d));
  // Not a number is not good enough.
  return kRounding * a.scale * largest / std::sqrt(static_cast<float>(d)) <= kScoreError;
}

// Keys [keys, d] as panels [d][64], zeros beyond.
void pack_keys(const Attention &a, const Part &part, int64_t head, float *keys) {
  const int64_t count = part.keys, d = a.head_dim, whole = d / kLanes * kLanes;
  const float *source = a.k + part.first * a.kv_stride + head * d;
  for (int64_t start = 0; start < count; start += kLanes) {
    float *panel = keys + start / kPanel * kPanel * d + start % kPanel;
    for (int64_t i = 0; i < whole; i += kLanes) {
      __m512 rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j)
        rows[j] = start + j < count ? _mm512_loadu_ps(source + (start + j) * a.kv_stride + i)
                                    : _mm512_setzero_ps();
      transpose(rows, panel + i * kPanel);
    }
    for (int64_t i = whole; i < d; ++i)
      for (int64_t j = 0; j < kLanes; ++j)
        panel[i * kPanel + j] = start + j < count ? source[(start + j) * a.kv_stride + i] : 0.0f;
  }
  // Groups of a panel that no key reached.
  for (int64_t start = padded(count, kLanes); start < padded(count, kPanel); start += kLanes)
    for (int64_t i = 0; i < d; ++i)
      _mm512_storeu_ps(keys + start / kPanel * kPanel * d + start % kPanel + i * kPanel,
                       _mm512_setzero_ps());
}

struct Block {
  float *queries, *scores, *sums;  // [48, d], [48, 128], [48, d padded]
  float largest[kQueries], total[kQueries];
};

// Writes 16 weights where their scores were, or bfloat16 from the row's beginning on; returns them as
// they will be multiplied.
template <bool half>
inline __m512 store_weights(float *row, int64_t column, __m512 weights);

template <>
inline __m512 store_weights<false>(float *row, int64_t column, __m512 weights) {
  _mm512_storeu_ps(row + column, weights);
  return weights;
}

template <>
inline __m512 store_weights<true>(float *row, int64_t column, __m512 weights) {
  const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(weights);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(row + column / 2), rounded);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
}

// The weight of a score below the largest: e^x. Those that are rounded to bfloat16 come from scores in
// base 2, as 2^x to within 3e-6 (a polynomial of degree 4, fitted by iterated least squares).
template <bool half>
inline __m512 weight_of(__m512 x) {
  if constexpr (!half) return exponential(x);
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);  // of minus infinity too; what is no number stays so
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(9.5701014e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5917860e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4024745e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9312181e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9999926e-1f));
  return _mm512_scalef_ps(p, n);
}

// Turns scores of one row into weights against the running maximum; rescales what it has so far.
template <bool half>
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
        weight_of<half>(_mm512_sub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(largest))));
    sum = _mm512_add_ps(sum, store_weights<half>(scores, j, e));
  }
  if (largest > b.largest[row]) {
    const float less = b.largest[row] - largest;
    // The first block keeps none.
    const float kept = b.total[row] <= 0 ? 0.0f : half ? std::exp2(less) : std::exp(less);
    b.total[row] *= kept;
    float *sums = b.sums + row * value_width;
    for (int64_t i = 0; i < value_width; i += kLanes)
      _mm512_storeu_ps(sums + i, _mm512_mul_ps(_mm512_loadu_ps(sums + i), _mm512_set1_ps(kept)));
    b.largest[row] = largest;
  }
  b.total[row] += _mm512_reduce_add_ps(sum);
}

// Pairs of bfloat16, each in the place of a float32.
struct BFloat16Pairs {
  static __m512 add(__m512 sum, __m512 x, __m512 y) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
  }
};

template <int vectors, bool half>
void add_value_columns(Block &b, int64_t rows, int64_t keys, const float *values, int64_t column,
                       int64_t width) {
  using Format = std::conditional_t<half, BFloat16Pairs, Float32>;
  multiply_rows<Format, vectors>(rows, b.scores, kKeys, values + column, width,
                                 half ? (keys + 1) / 2 : keys, b.sums + column, width, true);
}

// Columns go in passes of like width: 5 vectors are 3 + 2, for a pass of 1 would wait for its sums.
template <bool half>
void add_values(Block &b, int64_t rows, int64_t keys, const float *values, int64_t width) {
  const int64_t vectors = width / kLanes;
  const int64_t passes = (vectors + kPanelVectors - 1) / kPanelVectors;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = vectors * pass / passes, column = first * kLanes;
    switch (vectors * (pass + 1) / passes - first) {
      case 4: add_value_columns<4, half>(b, rows, keys, values, column, width); break;
      case 3: add_value_columns<3, half>(b, rows, keys, values, column, width); break;
      case 2: add_value_columns<2, half>(b, rows, keys, values, column, width); break;
      default: add_value_columns<1, half>(b, rows, keys, values, column, width);
    }
  }
}

// Queries as the product reads them, scaled: float32, or pairs of bfloat16.
void take_query(const float *q, int64_t d, float scale, bool half_scores, float *out) {
  const __m512 factor = _mm512_set1_ps(scale);
  if (!half_scores) {
    for (int64_t j = 0; j < d; j += kLanes)
      _mm512_mask_storeu_ps(out + j, lane_mask(d - j),
                            _mm512_mul_ps(_mm512_maskz_loadu_ps(lane_mask(d - j), q + j), factor));
    return;
  }
  for (int64_t j = 0; j < d; j += kLanes) {
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lane_mask(d - j), q + j), factor);
    _mm256_mask_storeu_epi32(out + j / 2, lane_mask((d - j + 1) / 2), (__m256i)_mm512_cvtneps_pbh(x));
  }
}

template <bool half>
void attend(const Attention &a, const Part &part, int64_t head, int64_t block, bool half_scores,
            const float *keys, const float *values, Block &b) {
  const int64_t d = a.head_dim, value_width = padded(d, kLanes);
  const int64_t half_size = padded(d, 2 * kLanes) / 2;
  const int64_t start = part.start + block * kQueries, rows = std::min(kQueries, part.end - start);
  const int64_t place = part.first + start - a.first_query;  // of the block among queries
  for (int64_t i = 0; i < rows; ++i) {
    const float *q = a.q + (place + i) * a.q_stride + head * d;
    take_query(q, d, half ? a.scale * kLog2E : a.scale, half_scores, b.queries + i * d);
    b.largest[i] = -std::numeric_limits<float>::infinity();
    b.total[i] = 0;
  }
  std::fill(b.sums, b.sums + rows * value_width, 0.0f);
  const int64_t visible = a.causal ? start + rows : part.keys;
  for (int64_t key = 0; key < visible; key += kKeys) {
    const int64_t in_block = std::min(kKeys, visible - key);
    for (int64_t p = 0; p < in_block; p += kPanel) {
      if (half_scores) {
        multiply_rows<BFloat16Pairs, kPanelVectors>(rows, b.queries, d, keys + (key + p) * half_size,
                                                    kPanel, (d + 1) / 2, b.scores + p, kKeys, false);
      } else {
        multiply_rows<Float32, kPanelVectors>(rows, b.queries, d, keys + (key + p) * d, kPanel, d,
                                              b.scores + p, kKeys, false);
      }
    }
    const int64_t stored = padded(in_block, kLanes);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t allowed =
          a.causal ? std::clamp<int64_t>(start + i + 1 - key, 0, in_block) : in_block;
      if (allowed > 0) {
        weigh_row<half>(b, i, stored, allowed, value_width);
      } else {
        std::fill(b.scores + i * kKeys, b.scores + i * kKeys + stored, 0.0f);
      }
    }
    add_values<half>(b, rows, in_block, values + key * (half ? value_width / 2 : value_width),
                     value_width);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const __m512 inverse = _mm512_set1_ps(1.0f / b.total[i]);
    float *out = a.out + (place + i) * a.out_stride + head * d;
    for (int64_t j = 0; j < d; j += kLanes)
      _mm512_mask_storeu_ps(out + j, lane_mask(d - j),
                            _mm512_mul_ps(_mm512_loadu_ps(b.sums + i * value_width + j), inverse));
  }
}

}  // namespace

// Floats that the workspace of trine_attention must hold.
TRINE_API int64_t trine_attention_workspace(const Attention *arguments) {
  int64_t floats = 0;
  for (int64_t s = 0; s < arguments->sequences; ++s)
    floats += packed_size(*arguments, part_of(*arguments, s));
  return floats * arguments->kv_heads;
}

TRINE_API void trine_attention(const Attention *arguments) {
  const Attention &a = *arguments;
  const int64_t d = a.head_dim, value_width = padded(d, kLanes);
  const int64_t group = a.heads / a.kv_heads;
  // Where each sequence's packed keys and its items of work begin.
  std::vector<Part> parts(a.sequences);
  std::vector<int64_t> places(a.sequences + 1), items(a.sequences + 1);
  for (int64_t s = 0; s < a.sequences; ++s) {
    parts[s] = part_of(a, s);
    places[s + 1] = places[s] + packed_size(a, parts[s]) * a.kv_heads;
    items[s + 1] = items[s] + parts[s].blocks() * a.heads;
  }
  const auto keys_of = [&](int64_t s, int64_t kv_head) {
    return a.workspace + places[s] + packed_size(a, parts[s]) * kv_head;
  };
  std::vector<char> half_scores(a.sequences * a.kv_heads);
  parallel_for(a.threads, a.sequences * a.kv_heads, [&](int64_t i, int) {
    const Part &part = parts[i / a.kv_heads];
    const int64_t head = i % a.kv_heads;
    float *keys = keys_of(i / a.kv_heads, head), *values = keys + part.padded_keys() * key_size(a);
    half_scores[i] = a.half && scores_in_half(a, part, head);
    if (half_scores[i]) {
      pack_half_keys(a, part, head, keys);
    } else {
      pack_keys(a, part, head, keys);
    }
    const float *source = a.v + part.first * a.kv_stride + head * d;
    if (a.half) {
      pack_half_values(source, a.kv_stride, part.keys, d, values);
    } else {
      pack_values(source, a.kv_stride, part.keys, d, values);
    }
  });
  Scratch scratch(a.threads, kQueries * (d + kKeys + value_width));
  parallel_for(a.threads, items[a.sequences], [&](int64_t i, int thread) {
    const int64_t s = std::upper_bound(items.begin(), items.end(), i) - items.begin() - 1;
    const Part &part = parts[s];
    const int64_t head = (i - items[s]) / part.blocks();
    // The last blocks see the most keys: first, so that the threads end together.
    const int64_t block = part.blocks() - 1 - (i - items[s]) % part.blocks();
    Block b;
    b.scores = scratch.of(thread);
    b.sums = b.scores + kQueries * kKeys;
    b.queries = b.sums + kQueries * value_width;
    const float *keys = keys_of(s, head / group), *values = keys + part.padded_keys() * key_size(a);
    const bool half = half_scores[s * a.kv_heads + head / group];
    if (a.half) {
      attend<true>(a, part, head, block, half, keys, values, b);
    } else {
      attend<false>(a, part, head, block, half, keys, values, b);
    }
  });
}

}  // namespace trine
