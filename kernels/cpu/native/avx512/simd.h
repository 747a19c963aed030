// Vectors of AVX-512: 16 lanes.
#pragma once

#include <immintrin.h>

#include <stddef.h>
#include <stdint.h>

#include "../common/calls.h"

namespace trine::TRINE_ISA {

using Floats = __m512;
using Mask = __mmask16;

constexpr int kLanes = 16;       // float32 or int32 of a vector
constexpr int kTileRows = 6;     // of a tile: 6 x 4 accumulators, 4 weights and 1 input fit 32 registers
constexpr int kTileVectors = 4;

inline Mask lane_mask(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xFFFF)
                         : static_cast<__mmask16>(count <= 0 ? 0 : (1u << count) - 1u);
}

inline Floats zero() { return _mm512_setzero_ps(); }
inline Floats set(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline Floats load(const float *from, Mask mask) { return _mm512_maskz_loadu_ps(mask, from); }
// Of int32, as float32.
inline Floats load_integers(const int32_t *from) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from)); }
inline void store(float *to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(float *to, Mask mask, Floats x) { _mm512_mask_storeu_ps(to, mask, x); }

inline Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
inline Floats subtract(Floats x, Floats y) { return _mm512_sub_ps(x, y); }
inline Floats multiply(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
inline Floats divide(Floats x, Floats y) { return _mm512_div_ps(x, y); }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }       // xy + z
inline Floats multiply_subtract(Floats x, Floats y, Floats z) { return _mm512_fmsub_ps(x, y, z); }  // xy - z
// The second where one is no number.
inline Floats smaller(Floats x, Floats y) { return _mm512_min_ps(x, y); }
inline Floats larger(Floats x, Floats y) { return _mm512_max_ps(x, y); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline Floats keep(Mask mask, Floats x) { return _mm512_maskz_mov_ps(mask, x); }
inline Floats larger_where(Floats top, Mask mask, Floats x) { return _mm512_mask_max_ps(top, mask, top, x); }
// x where `sign` is below 0, else y.
inline Floats where_negative(Floats sign, Floats x, Floats y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(sign, _mm512_setzero_ps(), _CMP_LT_OQ), x);
}
inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest_of(Floats x) { return _mm512_reduce_max_ps(x); }

// The first `count` of up to 16 bytes, zeros behind them; nothing beyond them is read.
inline __m128i load_bytes(const uint8_t *from, int64_t count) {
  return _mm_maskz_loadu_epi8(lane_mask(count), from);
}

// 16 bytes as float32, and the bytes behind them, of which there are none.
inline Floats bytes_as_floats(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }
inline __m128i skip_bytes(__m128i) { return _mm_setzero_si128(); }

template <int number>
inline Floats load_as_float(const void *base, int64_t index, Mask mask) {
  if constexpr (number == kFloat32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float *>(base) + index);
  } else if constexpr (number == kInt8) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
        _mm_maskz_loadu_epi8(mask, static_cast<const int8_t *>(base) + index)));
  } else {
    const __m256i half =
        _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t *>(base) + index);
    if constexpr (number == kFloat16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
}

// Rounds half to even, adds 128, stores bytes. x lies in -127..127.
inline void store_bytes(uint8_t *to, Mask mask, Floats x) {
  const __m512i q = _mm512_cvtps_epi32(x);
  _mm_mask_storeu_epi8(to, mask, _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128))));
}

inline Floats rounded(Floats x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power_of_two(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
// y where x is at least `limit`, else 0.
inline Floats where_at_least(Floats x, Floats limit, Floats y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), y);
}

// One butterfly of lanes whose numbers differ in bit kBit: (a, b) -> (a + b, a - b).
template <int kBit>
inline Floats turn_lanes(Floats v) {
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

// Writes the transpose of 16 rows of 16 numbers: out[i * stride + j] = rows[j][i].
inline void transpose(Floats (&r)[kLanes], float *out, int64_t stride) {
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
    store(out + c * stride, _mm512_shuffle_f32x4(low01, low23, 0x88));
    store(out + (4 + c) * stride, _mm512_shuffle_f32x4(low01, low23, 0xDD));
    store(out + (8 + c) * stride, _mm512_shuffle_f32x4(high01, high23, 0x88));
    store(out + (12 + c) * stride, _mm512_shuffle_f32x4(high01, high23, 0xDD));
  }
}

}  // namespace trine::TRINE_ISA
