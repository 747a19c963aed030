// y = (x - 128) * w in 8 bits, in plain C++: exact sums in int32, a row of a panel at a time.
#pragma once

#include "../common/pool.h"
#include "../generic/epilogue.h"

namespace trine::TRINE_ISA {

inline Status linear_int8(const LinearInt8 &a) {
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns, steps = a.depth / kDepth;
  parallel_for(a.threads, panels, [&](int64_t panel, int) {
    const int8_t *weights = a.weights + panel * kPanel * a.depth;
    for (int64_t row = 0; row < a.rows; ++row) {
      int32_t sums[kPanel];
      memcpy(sums, a.offsets + panel * kPanel, sizeof sums);
      for (int64_t k = 0; k < steps; ++k) {
        const uint8_t *x = a.x + row * a.depth + k * kDepth;
        const int8_t *w = weights + k * kPanel * kDepth;
        for (int c = 0; c < kPanel; ++c, w += kDepth)
          sums[c] += x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3];
      }
      finish_sums(a, sums, row, panel);
    }
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
