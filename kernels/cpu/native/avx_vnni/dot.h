// The 8-bit dot product of AVX-VNNI. A test on a processor without it puts another in this one's stead.
#pragma once

#if !defined(TRINE_EMULATED_DOT)

#include <immintrin.h>

namespace trine::TRINE_ISA {

// sum += inputs * weights, four products a lane: inputs uint8, weights int8, nothing saturates.
inline void add_products(__m256i &sum, __m256i inputs, __m256i weights) {
  sum = _mm256_dpbusd_avx_epi32(sum, inputs, weights);
}

}  // namespace trine::TRINE_ISA

#endif
