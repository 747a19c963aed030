// Weights as the kernels read them, written in plain C++: once for each layer.
#pragma once

#include "../common/pool.h"
#include "functions.h"

namespace trine::TRINE_ISA {

inline Status pack_int8(const PackInt8 &a) {
  const int64_t parts = a.second != nullptr ? 2 : 1, per_part = kPanel / parts;
  const int64_t panels = (a.columns + per_part - 1) / per_part;
  const int64_t steps = (a.depth + kDepth - 1) / kDepth;
  parallel_for(a.threads, panels, [&](int64_t panel, int) {
    int8_t *out = a.packed + panel * kPanel * steps * kDepth;
    int32_t sums[kPanel] = {};
    const int64_t column = panel * per_part, count = least(per_part, a.columns - column);
    for (int64_t k = 0; k < steps; ++k, out += kPanel * kDepth) {
      int8_t rows[kDepth][kPanel] = {};  // zeros beyond the edges
      for (int64_t d = 0; d < least(kDepth, a.depth - k * kDepth); ++d)
        for (int64_t part = 0; part < parts; ++part)
          __builtin_memcpy(rows[d] + part * per_part,
                           (part ? a.second : a.first) + (k * kDepth + d) * a.columns + column,
                           static_cast<size_t>(count));
      for (int c = 0; c < kPanel; ++c)
        for (int d = 0; d < kDepth; ++d) out[c * kDepth + d] = rows[d][c];
      for (int c = 0; c < kPanel; ++c)
        sums[c] += rows[0][c] + rows[1][c] + rows[2][c] + rows[3][c];
    }
    for (int c = 0; c < kPanel; ++c) a.offsets[panel * kPanel + c] = -128 * sums[c];
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
