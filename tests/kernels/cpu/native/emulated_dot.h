// The dot product of AVX-VNNI by AVX2, instruction for instruction exact, for processors without it.
#pragma once

#include <immintrin.h>

#define TRINE_EMULATED_DOT 1

namespace trine::TRINE_ISA {

inline void add_products(__m256i &sum, __m256i inputs, __m256i weights) {
  // Of each lane's four bytes the even and the odd ones, widened to 16 bits.
  const __m256i low = _mm256_set1_epi16(0xFF);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(inputs, low),
                                         _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(inputs, 8), _mm256_srai_epi16(weights, 8));
  sum = _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

}  // namespace trine::TRINE_ISA
