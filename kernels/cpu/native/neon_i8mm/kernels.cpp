// The kernels of NEON, 8-bit products by its product of small matrices: two rows of 8 unsigned inputs by two
// columns of 8 weights.
#include "../neon/simd.h"
// Vectors first.
#include "../common/table.h"
#include "../generic/linear_int8.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int64_t kTwoSteps = 2 * kDepth;

// Eight inputs of two rows, or four of each and zeros.
inline uint8x16_t load_pair(const uint8_t *first, const uint8_t *second, bool whole) {
  if (whole) return vcombine_u8(vld1_u8(first), vld1_u8(second));
  uint32_t x, y;
  memcpy(&x, first, sizeof x);
  memcpy(&y, second, sizeof y);
  return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(x), vcreate_u64(y)));
}

struct Multiply {
  // A tile's: 3 pairs of rows x 8 sums, 2 weights and 3 inputs fit 32 registers.
  static constexpr int kColumns = 16;
  static constexpr int kVectors = kColumns / kLanes;

  // sums[rows, 16 of a panel], the offsets among them.
  template <int rows>
  static void sum(const LinearInt8 &a, int64_t row, int64_t panel, int column, int32_t *sums) {
    constexpr int kPairs = (rows + 1) / 2;
    const int8_t *w = a.weights + panel * kPanel * a.depth + column * kDepth;
    const uint8_t *x = a.x + row * a.depth;
    // [row 0 column 0, row 0 column 1, row 1 column 0, row 1 column 1]; an odd last row is its own second.
    int32x4_t own[kPairs][kVectors][2];
    for (int i = 0; i < kPairs; ++i)
      for (int v = 0; v < kVectors; ++v) own[i][v][0] = own[i][v][1] = vdupq_n_s32(0);
    for (int64_t k = 0; k < a.depth; k += kTwoSteps, w += 2 * kStepBytes) {
      const bool whole = k + kTwoSteps <= a.depth;
      uint8x16_t inputs[kPairs];
#pragma GCC unroll 3
      for (int i = 0; i < kPairs; ++i) {
        const uint8_t *first = x + 2 * i * a.depth + k;
        inputs[i] = load_pair(first, 2 * i + 1 < rows ? first + a.depth : first, whole);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int32x4_t even = vreinterpretq_s32_s8(vld1q_s8(w + v * 16));
        const int32x4_t odd =
            whole ? vreinterpretq_s32_s8(vld1q_s8(w + kStepBytes + v * 16)) : vdupq_n_s32(0);
        const int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(even, odd));
        const int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(even, odd));
#pragma GCC unroll 3
        for (int i = 0; i < kPairs; ++i) {
          own[i][v][0] = vusmmlaq_s32(own[i][v][0], inputs[i], low);
          own[i][v][1] = vusmmlaq_s32(own[i][v][1], inputs[i], high);
        }
      }
    }
    const int32_t *offsets = a.offsets + panel * kPanel + column;
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kVectors; ++v) {
        const int64x2_t low = vreinterpretq_s64_s32(own[i / 2][v][0]);
        const int64x2_t high = vreinterpretq_s64_s32(own[i / 2][v][1]);
        const int32x4_t columns =
            vreinterpretq_s32_s64(i % 2 ? vzip2q_s64(low, high) : vzip1q_s64(low, high));
        vst1q_s32(sums + i * kPanel + v * kLanes,
                  vaddq_s32(columns, vld1q_s32(offsets + v * kLanes)));
      }
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
