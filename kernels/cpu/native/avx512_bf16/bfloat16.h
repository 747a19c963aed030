// Attention's factors in bfloat16. Those are rounded: weights and values always, for weights are at most 1
// and values are averaged; queries and keys only where that moves no score by much, for scores are
// exponents, and keys may carry biases that drown what a query looks for.
#pragma once

#include "../generic/attention.h"

namespace trine::TRINE_ISA {

// Rounding to bfloat16 errs by up to 2^-9 of a number, by 2^-9 / sqrt(3) in the root mean square, and as
// much again in the other factor; the errors of a product's terms add up as a random walk does.
constexpr float kRounding = 1.6e-3f;
// The error of a score that is left to bfloat16, in the root mean square. Rounding a layer to 8 bits
// moves scores by about a hundredth of what they are.
constexpr float kScoreError = 0.01f;

constexpr float kLog2E = 1.44269504f;

// Pairs of bfloat16, each in the place of a float32.
struct BFloat16Pairs {
  static Floats add(Floats sum, Floats x, Floats y) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
  }
};

// The largest square of a row's norm.
inline float largest_square(const float *rows, int64_t stride, int64_t count, int64_t d) {
  float largest = 0;
  for (int64_t j = 0; j < count; ++j) {
    Floats sum = zero();
    for (int64_t i = 0; i < d; i += kLanes) {
      const Floats x = load(rows + j * stride + i, lane_mask(d - i));
      sum = multiply_add(x, x, sum);
    }
    const float square = sum_of(sum);
    largest = largest < square ? square : largest;
  }
  return largest;
}

// `Half` of attention.h.
struct BFloat16 {
  static constexpr bool kAvailable = true;
  using Format = BFloat16Pairs;

  // Floats of a packed key and a packed value: they come in pairs, and keys by 16 of those.
  static int64_t key_size(int64_t d) { return padded(d, 2 * kLanes) / 2; }
  static int64_t value_size(int64_t d) { return padded(d, kLanes) / 2; }

  // Values [count, d] as bfloat16 [count / 2, d padded to 16, 2], zeros after the last.
  static void pack_values(const float *source, int64_t stride, int64_t count, int64_t d, float *values) {
    const int64_t width = padded(d, kLanes);
    for (int64_t j = 0; j < count; j += 2)
      for (int64_t i = 0; i < width; i += kLanes) {
        const float *at = source + j * stride + i;
        const Mask mask = lane_mask(d - i);
        const Floats even = load(at, mask);
        const Floats odd = j + 1 < count ? load(at + stride, mask) : zero();
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
        _mm512_storeu_si512(values + j / 2 * width + i,
                            _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
  }

  // Keys [keys, d] as bfloat16 in panels [d / 2][64][2], zeros beyond.
  static void pack_keys(const Attention &a, const Part &part, int64_t head, float *keys) {
    const int64_t d = a.head_dim, size = key_size(d);
    const float *source = a.k + part.first * a.kv_stride + head * d;
    for (int64_t start = 0; start < part.padded_keys(); start += kLanes) {
      float *panel = keys + start / kTile * kTile * size + start % kTile;
      for (int64_t i = 0; i < d; i += 2 * kLanes) {
        Floats rows[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
          const bool there = start + j < part.keys;
          const float *at = source + (start + j) * a.kv_stride + i;
          const Floats low = load(at, there ? lane_mask(d - i) : 0);
          const Floats high = load(at + kLanes, there ? lane_mask(d - i - kLanes) : 0);
          rows[j] = (Floats)_mm512_cvtne2ps_pbh(high, low);
        }
        transpose(rows, panel + i / 2 * kTile, kTile);
      }
    }
  }

  // Whether bfloat16 is good enough for the scores of one sequence and the queries of one key head.
  static bool scores_allow(const Attention &a, const Part &part, int64_t kv_head) {
    const int64_t d = a.head_dim, group = a.heads / a.kv_heads;
    const float *k = a.k + part.first * a.kv_stride + kv_head * d;
    const float *q = a.q + (part.first + part.start - a.first_query) * a.q_stride;
    float queries = 0;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      queries = fmaxf(queries, largest_square(q + head * d, a.q_stride, part.end - part.start, d));
    const float largest = sqrtf(queries) * sqrtf(largest_square(k, a.kv_stride, part.keys, d));
    // Not a number is not good enough.
    return kRounding * a.scale * largest / sqrtf(static_cast<float>(d)) <= kScoreError;
  }

  // 2^x to within 3e-6, a polynomial of degree 4, fitted by iterated least squares.
  static Floats weight_of(Floats x) {
    x = larger(set(-200.0f), x);  // of minus infinity too; what is no number stays so
    const Floats n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Floats r = subtract(x, n);
    Floats p = set(9.5701014e-3f);
    p = multiply_add(p, r, set(5.5917860e-2f));
    p = multiply_add(p, r, set(2.4024745e-1f));
    p = multiply_add(p, r, set(6.9312181e-1f));
    p = multiply_add(p, r, set(9.9999926e-1f));
    return _mm512_scalef_ps(p, n);
  }

  // Weights go, rounded, to the beginning of their row of scores.
  static Floats store_weights(float *row, int64_t column, Floats weights) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(weights);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(row + column / 2), rounded);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }

  // A query as the product reads it, scaled for scores in base 2: float32, or pairs of bfloat16.
  static void take_query(const float *q, int64_t d, float scale, bool rounded, float *out) {
    if (!rounded) return trine::TRINE_ISA::take_query(q, d, scale * kLog2E, out);
    const Floats factor = set(scale * kLog2E);
    for (int64_t j = 0; j < d; j += kLanes) {
      const Floats x = multiply(load(q + j, lane_mask(d - j)), factor);
      _mm256_mask_storeu_epi32(out + j / 2, lane_mask((d - j + 1) / 2), (__m256i)_mm512_cvtneps_pbh(x));
    }
  }
};

}  // namespace trine::TRINE_ISA
