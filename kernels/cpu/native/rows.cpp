// Row by row: norms, quantisation, rotation and activations, between the products.
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace trine {
namespace {

// Rows of float32 on their way into a product. All strides count elements.
struct Rows {
  const float *x;  // [rows, width]
  int64_t rows;
  int64_t width;
  int64_t x_stride;
  const float *norm_weight;  // [width], or null for no norm
  float *normed;             // [rows, width] packed: the norm's result, or null
  const float *inliers;      // [width] of 0 and 1: who has a say in the scale; null for all
  uint8_t *quantised;        // [rows, quantised_stride], or null
  float *scales;             // [rows]
  int64_t quantised_stride;  // width padded to a multiple of 4, of rotated rows of kRotation
  float epsilon;
  int32_t rotated;  // whether inliers are rotated in blocks of kRotation before they are quantised
  int32_t threads;
  int32_t reserved;
};

constexpr float kLargest = 127.0f, kLeastScale = 1e-30f;

// Channels of a block that is rotated: four vectors.
constexpr int64_t kRotation = 64;

inline int64_t filled_width(int64_t width) {
  return (width + kRotation - 1) / kRotation * kRotation;
}

// One butterfly of lanes whose numbers differ in bit kBit: (a, b) -> (a + b, a - b).
template <int kBit>
inline __m512 turn_lanes(__m512 v) {
  constexpr __mmask16 kSecond = kBit == 1 ? 0xAAAA : kBit == 2 ? 0xCCCC : kBit == 4 ? 0xF0F0 : 0xFF00;
  __m512 other;
  if constexpr (kBit == 1)
    other = _mm512_permute_ps(v, 0xB1);
  else if constexpr (kBit == 2)
    other = _mm512_permute_ps(v, 0x4E);
  else if constexpr (kBit == 4)
    other = _mm512_shuffle_f32x4(v, v, 0xB1);
  else
    other = _mm512_shuffle_f32x4(v, v, 0x4E);
  return _mm512_mask_sub_ps(_mm512_add_ps(other, v), kSecond, other, v);
}

// Multiplies each block of a row by Sylvester's Hadamard matrix over 8, and returns the largest
// magnitudes by lane. Writes rows filled to whole blocks.
inline __m512 rotate_blocks(const float *x, const float *inliers, int64_t width, float *out) {
  const __m512 eighth = _mm512_set1_ps(0.125f);
  __m512 largest = _mm512_setzero_ps();
  for (int64_t start = 0; start < width; start += kRotation) {
    __m512 v[4];
    for (int part = 0; part < 4; ++part) {
      const int64_t i = start + part * kLanes;
      const __mmask16 m = lane_mask(width - i);
      v[part] = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), eighth);
      if (inliers != nullptr)
        v[part] = _mm512_mul_ps(v[part], _mm512_maskz_loadu_ps(m, inliers + i));
      v[part] = turn_lanes<8>(turn_lanes<4>(turn_lanes<2>(turn_lanes<1>(v[part]))));
    }
    const __m512 a = _mm512_add_ps(v[0], v[1]), b = _mm512_sub_ps(v[0], v[1]);
    const __m512 c = _mm512_add_ps(v[2], v[3]), d = _mm512_sub_ps(v[2], v[3]);
    const __m512 turned[4] = {_mm512_add_ps(a, c), _mm512_add_ps(b, d), _mm512_sub_ps(a, c),
                              _mm512_sub_ps(b, d)};
    for (int part = 0; part < 4; ++part) {
      largest = _mm512_max_ps(largest, _mm512_abs_ps(turned[part]));
      _mm512_storeu_ps(out + start + part * kLanes, turned[part]);
    }
  }
  return largest;
}

inline __m512 largest_magnitudes(const float *x, const float *inliers, int64_t width) {
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += kLanes) {
    const __mmask16 m = lane_mask(width - i);
    __m512 v = _mm512_maskz_loadu_ps(m, x + i);
    if (inliers != nullptr) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, inliers + i));
    largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
  }
  return largest;
}

// `buffer` has room for the norm of a row where its result is not wanted, then for a rotated row.
inline void prepare_row(const Rows &a, int64_t row, float *buffer) {
  const float *x = a.x + row * a.x_stride;
  if (a.norm_weight != nullptr) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < a.width; i += kLanes) {
      const __m512 v = _mm512_maskz_loadu_ps(lane_mask(a.width - i), x + i);
      sum = _mm512_fmadd_ps(v, v, sum);
    }
    const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(a.width);
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(mean + a.epsilon));
    float *out = a.normed != nullptr ? a.normed + row * a.width : buffer;
    for (int64_t i = 0; i < a.width; i += kLanes) {
      const __mmask16 m = lane_mask(a.width - i);
      const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), factor);
      _mm512_mask_storeu_ps(out + i, m,
                            _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, a.norm_weight + i)));
    }
    x = out;
  }
  if (a.quantised == nullptr) return;
  int64_t width = a.width;
  __m512 largest;
  if (a.rotated) {
    float *turned = buffer + filled_width(a.width);
    largest = rotate_blocks(x, a.inliers, a.width, turned);
    x = turned;
    width = filled_width(a.width);
  } else {
    largest = largest_magnitudes(x, a.inliers, a.width);
  }
  largest = _mm512_max_ps(largest, _mm512_set1_ps(kLargest * kLeastScale));
  const float scale = _mm512_reduce_max_ps(largest) * (1.0f / kLargest);
  a.scales[row] = scale;
  const __m512 inverse = _mm512_set1_ps(1.0f / scale);
  const __m512 high = _mm512_set1_ps(kLargest), low = _mm512_set1_ps(-kLargest);
  uint8_t *out = a.quantised + row * a.quantised_stride;
  for (int64_t i = 0; i < a.quantised_stride; i += kLanes) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lane_mask(width - i), x + i), inverse);
    const __m512i q = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, low), high));
    const __m128i bytes =
        _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128)));
    _mm_mask_storeu_epi8(out + i, lane_mask(a.quantised_stride - i), bytes);
  }
}

// Rotates `heads` heads of a row: (a, b) -> (a cos - b sin, b cos + a sin), a and b its halves.
inline void rotate_row(float *x, int64_t heads, int64_t half, const float *cosine,
                       const float *sine) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * half)
    for (int64_t i = 0; i < half; i += kLanes) {
      const __mmask16 m = lane_mask(half - i);
      const __m512 c = _mm512_maskz_loadu_ps(m, cosine + i);
      const __m512 s = _mm512_maskz_loadu_ps(m, sine + i);
      const __m512 a = _mm512_maskz_loadu_ps(m, x + i);
      const __m512 b = _mm512_maskz_loadu_ps(m, x + half + i);
      _mm512_mask_storeu_ps(x + i, m, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
      _mm512_mask_storeu_ps(x + half + i, m, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

// x * Phi(x), Phi by the error function of Abramowitz and Stegun 7.1.26 (error below 1.5e-7).
inline __m512 gelu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678118654752f));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
  __m512 p = _mm512_set1_ps(1.061405429f);
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
  const __m512 tail = _mm512_mul_ps(
      _mm512_mul_ps(p, t), exponential(_mm512_mul_ps(z, _mm512_sub_ps(_mm512_setzero_ps(), z))));
  // Phi(-|x|) = tail / 2; Phi(|x|) = 1 - tail / 2.
  const __m512 half = _mm512_mul_ps(tail, _mm512_set1_ps(0.5f));
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  return _mm512_mul_ps(x, _mm512_mask_mov_ps(_mm512_sub_ps(one, half), negative, half));
}

}  // namespace

TRINE_API void trine_prepare_rows(const Rows *arguments) {
  const Rows &a = *arguments;
  const bool buffered = a.rotated || (a.norm_weight != nullptr && a.normed == nullptr);
  const int64_t room = 2 * filled_width(a.width);
  std::vector<float> buffers(buffered ? a.threads * room : 0);
  parallel_rows(a.threads, a.rows, [&](int64_t row, int thread) {
    prepare_row(a, row, buffers.data() + (buffered ? thread * room : 0));
  });
}

// In place on float32 [rows, heads * 2 * half] (row stride `stride`); tables float32 [rows, half].
TRINE_API void trine_rotate(float *x, int64_t rows, int64_t stride, int64_t heads, int64_t half,
                            const float *cosines, const float *sines, int32_t threads) {
  parallel_rows(threads, rows, [=](int64_t row, int) {
    rotate_row(x + row * stride, heads, half, cosines + row * half, sines + row * half);
  });
}

// gate = silu(gate) * up, element by element.
TRINE_API void trine_swiglu(float *gate, const float *up, int64_t count, int32_t threads) {
  parallel_rows(threads, (count + kLanes - 1) / kLanes, [=](int64_t vector, int) {
    const int64_t i = vector * kLanes;
    const __mmask16 m = lane_mask(count - i);
    _mm512_mask_storeu_ps(
        gate + i, m,
        swiglu(_mm512_maskz_loadu_ps(m, gate + i), _mm512_maskz_loadu_ps(m, up + i)));
  });
}

// x = gelu(x), element by element, the exact GELU.
TRINE_API void trine_gelu(float *x, int64_t count, int32_t threads) {
  parallel_rows(threads, (count + kLanes - 1) / kLanes, [=](int64_t vector, int) {
    const int64_t i = vector * kLanes;
    const __mmask16 m = lane_mask(count - i);
    _mm512_mask_storeu_ps(x + i, m, gelu(_mm512_maskz_loadu_ps(m, x + i)));
  });
}

}  // namespace trine
