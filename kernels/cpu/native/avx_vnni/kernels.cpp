// The kernels of AVX2 with AVX-VNNI, whose 8-bit products need no widening.
//
// y = (x - 128) * w: weights are read as they lie in their panels, [depth / 4][64][4], 16 columns at a
// time, and a tile's sums stay in registers over the whole depth. They are exact integers.
#include "../avx2/simd.h"
// Vectors first.
#include "../common/table.h"
#include "../generic/linear_int8.h"
#include "dot.h"

namespace trine::TRINE_ISA {
namespace {

struct Multiply {
  // A tile's: 6 x 2 sums, 2 weights and 1 input fit 16 registers.
  static constexpr int kColumns = 2 * kLanes;

  // sums[rows, 16 of a panel], the offsets among them.
  template <int rows>
  static void sum(const LinearInt8 &a, int64_t row, int64_t panel, int column, int32_t *sums) {
    const __m256i *offsets =
        reinterpret_cast<const __m256i *>(a.offsets + panel * kPanel + column);
    const int8_t *w = a.weights + panel * kPanel * a.depth + column * kDepth;
    const uint8_t *x = a.x + row * a.depth;
    __m256i left[rows], right[rows];
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      left[i] = _mm256_loadu_si256(offsets);
      right[i] = _mm256_loadu_si256(offsets + 1);
    }
    for (int64_t k = 0; k < a.depth; k += kDepth, w += kStepBytes) {
      const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w));
      const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w) + 1);
      _mm_prefetch(reinterpret_cast<const char *>(w) + 8 * kStepBytes, _MM_HINT_T0);
#pragma GCC unroll 6
      for (int i = 0; i < rows; ++i) {
        int32_t four;
        memcpy(&four, x + i * a.depth + k, sizeof four);
        const __m256i inputs = _mm256_set1_epi32(four);
        add_products(left[i], inputs, first);
        add_products(right[i], inputs, second);
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      __m256i *to = reinterpret_cast<__m256i *>(sums + i * kPanel);
      _mm256_storeu_si256(to, left[i]);
      _mm256_storeu_si256(to + 1, right[i]);
    }
  }
};

}  // namespace

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = avx2::kernels();
    mixed.linear_int8 = linear_int8_with<Multiply>;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
