// Products of bfloat16 by vdpbf16ps, two terms a step. It adds both with roundings of its own order and takes
// subnormal numbers for 0, so sums differ from widened ones in their last bits.
#pragma once

#include "../generic/linear_bfloat16.h"
#include "bfloat16.h"

namespace trine::TRINE_ISA {

// `Products` of linear_bfloat16.h: weights are multiplied as they lie in their panels.
struct PairProducts {
  static int64_t row_size(int64_t depth) { return padded(depth, 2 * kLanes) / kPair + 16; }
  static int64_t panel_size() { return 0; }

  static void take_row(const float *x, int64_t depth, float *out) {
    for (int64_t k = 0; k < depth; k += kLanes)
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + k / kPair),
                          (__m256i)_mm512_cvtneps_pbh(load(x + k, lane_mask(depth - k))));
  }

  static void multiply(int64_t rows, const float *x, int64_t depth, const uint16_t *panel, float *,
                       float *sums) {
    multiply_rows<BFloat16Pairs, kTileVectors>(rows, x, row_size(depth),
                                               reinterpret_cast<const float *>(panel), kPanel,
                                               (depth + kPair - 1) / kPair, sums, kPanel, false);
  }
};

}  // namespace trine::TRINE_ISA
