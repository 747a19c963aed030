// Vector helpers of the AVX-512 kernels. Every file that includes this is compiled for AVX-512 by the
// pragma below; only features.cpp is not, so that the library can be loaded on any x86-64 processor.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define TRINE_API extern "C" __attribute__((visibility("default")))

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

namespace trine {

constexpr int kLanes = 16;        // float32 or int32 of a vector
constexpr int kPanelVectors = 4;  // vectors of a panel of output columns
constexpr int kPanel = kLanes * kPanelVectors;
constexpr int kTileRows = 6;  // rows of a tile: 6 x 4 accumulators, 4 weights and 1 input fit 32 registers
constexpr int kDepth = 4;     // int8 products that one instruction adds up

inline __mmask16 lane_mask(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xFFFF)
                         : static_cast<__mmask16>(count <= 0 ? 0 : (1u << count) - 1u);
}

// Number formats of matrices that are read as float32.
enum Number : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

template <int number>
inline __m512 load_as_float(const void *base, int64_t index, __mmask16 mask) {
  if constexpr (number == kFloat32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float *>(base) + index);
  } else {
    const __m256i half =
        _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t *>(base) + index);
    if constexpr (number == kFloat16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
}

// e^x to within 2 units in the last place for x in [-87, 88]; below that 0. Range reduction by ln 2 in
// two parts and a polynomial of degree 6 (Cephes' expf).
inline __m512 exponential(__m512 x) {
  const __m512 low = _mm512_set1_ps(-87.33654f), high = _mm512_set1_ps(88.37626f);
  const __mmask16 kept = _mm512_cmp_ps_mask(x, low, _CMP_GE_OQ);
  x = _mm512_min_ps(_mm512_max_ps(x, low), high);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_maskz_scalef_ps(kept, p, n);
}

// silu(gate) * up
inline __m512 swiglu(__m512 gate, __m512 up) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate));
  return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(one, e)), up);
}

}  // namespace trine
