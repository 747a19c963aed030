// The kernels of NEON, 8-bit products by its dot product of signed numbers.
#include "../neon/simd.h"
// Vectors first.
#include "../common/table.h"
#include "../generic/linear_int8.h"

namespace trine::TRINE_ISA {
namespace {

struct Multiply {
  // A tile's: 6 x 4 sums, 4 weights and 1 input fit 32 registers.
  static constexpr int kColumns = 16;
  static constexpr int kVectors = kColumns / kLanes;

  // sums[rows, 16 of a panel].
  template <int rows>
  static void sum(const LinearInt8 &a, int64_t row, int64_t panel, int column, int32_t *sums) {
    const int8_t *w = a.weights + panel * kPanel * a.depth + column * kDepth;
    const uint8_t *x = a.x + row * a.depth;
    int32x4_t own[rows][kVectors];
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kVectors; ++v) own[i][v] = vdupq_n_s32(0);
    for (int64_t k = 0; k < a.depth; k += kDepth, w += kStepBytes) {
      int8x16_t weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = vld1q_s8(w + v * 16);
#pragma GCC unroll 6
      for (int i = 0; i < rows; ++i) {
        uint32_t four;
        memcpy(&four, x + i * a.depth + k, sizeof four);
        // Less 128 is the highest bit turned over.
        const int8x16_t inputs = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) own[i][v] = vdotq_s32(own[i][v], inputs, weights[v]);
      }
    }
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kVectors; ++v)
        vst1q_s32(sums + i * kPanel + v * kLanes, own[i][v]);
  }
};

}  // namespace

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = neon::kernels();
    mixed.linear_int8 = linear_int8_with<Multiply>;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
