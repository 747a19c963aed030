// y = (x - 128) * w in 8 bits on NEON without dot products: two factors are multiplied in 16 bits, where
// 128 * 128 fits, and pairs of products are added in 32.
#include "kernels.h"

#include "../generic/linear_int8.h"

namespace trine::TRINE_ISA {
namespace {

struct Multiply {
  // A tile's: 6 x 4 sums, 2 weights and 1 input fit 32 registers.
  static constexpr int kColumns = 8;
  static constexpr int kWeights = kColumns * kDepth / 16;  // vectors of them in a step

  // sums[rows, 8 of a panel].
  template <int rows>
  static void sum(const LinearInt8 &a, int64_t row, int64_t panel, int column, int32_t *sums) {
    const int8_t *w = a.weights + panel * kPanel * a.depth + column * kDepth;
    const uint8_t *x = a.x + row * a.depth;
    int32x4_t pairs[rows][kWeights][2];  // of [column 0 a, column 0 b, column 1 a, column 1 b], and of 2 and 3
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kWeights; ++v) pairs[i][v][0] = pairs[i][v][1] = vdupq_n_s32(0);
    for (int64_t k = 0; k < a.depth; k += kDepth, w += kStepBytes) {
      int8x16_t weights[kWeights];
      for (int v = 0; v < kWeights; ++v) weights[v] = vld1q_s8(w + v * 16);
#pragma GCC unroll 6
      for (int i = 0; i < rows; ++i) {
        uint32_t four;
        memcpy(&four, x + i * a.depth + k, sizeof four);
        // Less 128 is the highest bit turned over.
        const int8x8_t inputs = vreinterpret_s8_u32(vdup_n_u32(four ^ 0x80808080u));
#pragma GCC unroll 2
        for (int v = 0; v < kWeights; ++v) {
          pairs[i][v][0] = vpadalq_s16(pairs[i][v][0], vmull_s8(inputs, vget_low_s8(weights[v])));
          pairs[i][v][1] = vpadalq_s16(pairs[i][v][1], vmull_s8(inputs, vget_high_s8(weights[v])));
        }
      }
    }
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kWeights; ++v)
        vst1q_s32(sums + i * kPanel + v * 4, vpaddq_s32(pairs[i][v][0], pairs[i][v][1]));
  }
};

}  // namespace

Status linear_int8(const LinearInt8 &a) { return linear_int8_with<Multiply>(a); }

}  // namespace trine::TRINE_ISA
