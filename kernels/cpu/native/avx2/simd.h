// Vectors of AVX2 with FMA and F16C: 8 lanes.
#pragma once

#include <immintrin.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/calls.h"

namespace trine::TRINE_ISA {

using Floats = __m256;

constexpr int kLanes = 8;        // float32 or int32 of a vector
constexpr int kTileRows = 6;     // of a tile: 6 x 2 accumulators, 2 weights and 1 input fit 16 registers
constexpr int kTileVectors = 2;

// Lanes that count: the first `count`. AVX2 masks loads of 32 bits only, by the sign of each lane.
struct Mask {
  int count;  // 0 to 8
  __m256i lanes() const {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

inline Mask lane_mask(int64_t count) {
  return {static_cast<int>(count >= kLanes ? kLanes : count <= 0 ? 0 : count)};
}

inline Floats zero() { return _mm256_setzero_ps(); }
inline Floats set(float x) { return _mm256_set1_ps(x); }
inline Floats load(const float *from) { return _mm256_loadu_ps(from); }
inline Floats load(const float *from, Mask mask) {
  return mask.count == kLanes ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask.lanes());
}
// Of int32, as float32.
inline Floats load_integers(const int32_t *from) {
  return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void store(float *to, Floats x) { _mm256_storeu_ps(to, x); }
inline void store(float *to, Mask mask, Floats x) {
  if (mask.count == kLanes) {
    _mm256_storeu_ps(to, x);
  } else {
    _mm256_maskstore_ps(to, mask.lanes(), x);
  }
}

inline Floats add(Floats x, Floats y) { return _mm256_add_ps(x, y); }
inline Floats subtract(Floats x, Floats y) { return _mm256_sub_ps(x, y); }
inline Floats multiply(Floats x, Floats y) { return _mm256_mul_ps(x, y); }
inline Floats divide(Floats x, Floats y) { return _mm256_div_ps(x, y); }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return _mm256_fmadd_ps(x, y, z); }       // xy + z
inline Floats multiply_subtract(Floats x, Floats y, Floats z) { return _mm256_fmsub_ps(x, y, z); }  // xy - z
// The second where one is no number.
inline Floats smaller(Floats x, Floats y) { return _mm256_min_ps(x, y); }
inline Floats larger(Floats x, Floats y) { return _mm256_max_ps(x, y); }
inline Floats magnitude(Floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline Floats keep(Mask mask, Floats x) { return _mm256_and_ps(_mm256_castsi256_ps(mask.lanes()), x); }
inline Floats larger_where(Floats top, Mask mask, Floats x) {
  return _mm256_blendv_ps(top, _mm256_max_ps(top, x), _mm256_castsi256_ps(mask.lanes()));
}
// x where `sign` is below 0, else y.
inline Floats where_negative(Floats sign, Floats x, Floats y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(sign, _mm256_setzero_ps(), _CMP_LT_OQ));
}
inline float sum_of(Floats x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float largest_of(Floats x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// The first `count` of up to 16 bytes, zeros behind them; nothing beyond them is read.
inline __m128i load_bytes(const void *from, int64_t count) {
  if (count >= 16) return _mm_loadu_si128(static_cast<const __m128i *>(from));
  alignas(16) uint8_t bytes[16] = {};
  if (count > 0) memcpy(bytes, from, static_cast<size_t>(count));
  return _mm_load_si128(reinterpret_cast<const __m128i *>(bytes));
}

// The first kLanes of 16 bytes as float32, and the bytes behind them.
inline Floats bytes_as_floats(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }
inline __m128i skip_bytes(__m128i bytes) { return _mm_srli_si128(bytes, kLanes); }

template <int number>
inline Floats load_as_float(const void *base, int64_t index, Mask mask) {
  if constexpr (number == kFloat32) {
    return load(static_cast<const float *>(base) + index, mask);
  } else if constexpr (number == kInt8) {
    const int8_t *from = static_cast<const int8_t *>(base) + index;
    const __m128i bytes = mask.count == kLanes ? _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))
                                               : load_bytes(from, mask.count);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  } else {
    const __m128i half = load_bytes(static_cast<const uint16_t *>(base) + index, 2 * mask.count);
    if constexpr (number == kFloat16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
}

// Rounds half to even, adds 128, stores bytes. x lies in -127..127.
inline void store_bytes(uint8_t *to, Mask mask, Floats x) {
  const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(128));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (mask.count == kLanes) {
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to), bytes);
  } else {
    alignas(16) uint8_t all[16];
    _mm_store_si128(reinterpret_cast<__m128i *>(all), bytes);
    memcpy(to, all, static_cast<size_t>(mask.count));
  }
}

inline Floats rounded(Floats x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2^n by the power's bits: n is -126 to 127.
inline Floats times_power_of_two(Floats x, Floats n) {
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
}
// y where x is at least `limit`, else 0.
inline Floats where_at_least(Floats x, Floats limit, Floats y) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ), y);
}

// One butterfly of lanes whose numbers differ in bit kBit: (a, b) -> (a + b, a - b).
template <int kBit>
inline Floats turn_lanes(Floats v) {
  constexpr int kSecond = kBit == 1 ? 0xAA : kBit == 2 ? 0xCC : 0xF0;
  __m256 other;
  if constexpr (kBit == 1)
    other = _mm256_permute_ps(v, 0xB1);
  else if constexpr (kBit == 2)
    other = _mm256_permute_ps(v, 0x4E);
  else
    other = _mm256_permute2f128_ps(v, v, 0x01);
  return _mm256_blend_ps(_mm256_add_ps(other, v), _mm256_sub_ps(other, v), kSecond);
}

// Writes the transpose of 8 rows of 8 numbers: out[i * stride + j] = rows[j][i].
inline void transpose(Floats (&r)[kLanes], float *out, int64_t stride) {
  __m256 t[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  // r[4 * i + c] holds, in its half h, column 4 * h + c of rows 4 * i to 4 * i + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    store(out + c * stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    store(out + (4 + c) * stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}

}  // namespace trine::TRINE_ISA
