// Products of weights in bfloat16: inputs are rounded to it, sums are float32, in the order of the depth.
#pragma once

#include <string.h>

#include "../common/pool.h"
#include "../common/scratch.h"
#include "epilogue.h"
#include "tile.h"

namespace trine::TRINE_ISA {

// The nearest bfloat16, half to even, in the upper half of a float32; no number stays none.
inline uint32_t rounded_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t nearest = bits + 0x7FFF + (bits >> 16 & 1);
  return ((bits & 0x7FFFFFFF) > 0x7F800000 ? bits | 0x400000 : nearest) & 0xFFFF0000;
}

// Each of the 16 bits is read as it is: how they are multiplied is `Products` of the way through below.
inline Status pack_bfloat16(const PackBFloat16 &a) {
  const int64_t parts = a.second != nullptr ? 2 : 1, per_part = kPanel / parts;
  const int64_t panels = (a.columns + per_part - 1) / per_part;
  const int64_t steps = (a.depth + kPair - 1) / kPair;
  parallel_for(a.threads, panels, [&](int64_t panel, int) {
    uint16_t *out = a.packed + panel * kPanel * steps * kPair;
    const int64_t column = panel * per_part, count = least(per_part, a.columns - column);
    for (int64_t k = 0; k < steps; ++k, out += kPanel * kPair) {
      uint16_t rows[kPair][kPanel] = {};  // zeros beyond the edges
      for (int64_t d = 0; d < least(kPair, a.depth - k * kPair); ++d)
        for (int64_t part = 0; part < parts; ++part)
          memcpy(rows[d] + part * per_part,
                 (part ? a.second : a.first) + (k * kPair + d) * a.columns + column,
                 static_cast<size_t>(count) * sizeof(uint16_t));
      for (int c = 0; c < kPanel; ++c)
        for (int d = 0; d < kPair; ++d) out[c * kPair + d] = rows[d][c];
    }
  });
  return kDone;
}

// Rounded numbers as float32, which any processor multiplies exactly. Weights are widened a stretch of the
// depth at a time, which stays in the first cache while all rows pass by.
struct Widened {
  static constexpr int64_t kStretch = 128;

  // Floats of an input row, and of a thread's weights. Rows a power of two apart would share cache lines.
  static int64_t row_size(int64_t depth) { return padded(depth, kPair) + 16; }
  static int64_t panel_size() { return kStretch * kPanel; }

  static void take_row(const float *x, int64_t depth, float *out) {
    for (int64_t k = 0; k < depth; ++k) {
      const uint32_t bits = rounded_bits(x[k]);
      memcpy(out + k, &bits, sizeof bits);
    }
    for (int64_t k = depth; k < padded(depth, kPair); ++k) out[k] = 0;
  }

  // Pairs [steps][64][2] as tiles [2 steps][kTile] behind one another.
  static void widen(const uint16_t *pairs, int64_t steps, float *out) {
    for (int64_t step = 0; step < steps; ++step)
      for (int tile = 0; tile < kPanel / kTile; ++tile) {
        float *to = out + (tile * kStretch + step * kPair) * kTile;
        for (int c = 0; c < kTile; ++c) {
          uint32_t pair;
          memcpy(&pair, pairs + (step * kPanel + tile * kTile + c) * kPair, sizeof pair);
          const uint32_t even = pair << 16, odd = pair & 0xFFFF0000;
          memcpy(to + c, &even, sizeof even);
          memcpy(to + kTile + c, &odd, sizeof odd);
        }
      }
  }

  // sums[rows, 64] = x * the panel.
  static void multiply(int64_t rows, const float *x, int64_t depth, const uint16_t *panel, float *own,
                       float *sums) {
    for (int64_t first = 0; first < padded(depth, kPair); first += kStretch) {
      const int64_t count = least(kStretch, padded(depth, kPair) - first);
      widen(panel + first * kPanel, count / kPair, own);
      for (int tile = 0; tile < kPanel / kTile; ++tile)
        multiply_rows<Float32, kTileVectors>(rows, x + first, row_size(depth),
                                             own + tile * kStretch * kTile, kTile, count,
                                             sums + tile * kTile, kPanel, first > 0);
    }
  }
};

// What sums [kPanel] of a row come to.
inline void finish_float_sums(const LinearBFloat16 &a, const float *sums, int64_t row, int64_t panel) {
  Floats values[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) {
    const Floats sum = load(sums + v * kLanes);
    values[v] = a.bias ? add(sum, load(a.bias + panel * kPanel + v * kLanes)) : sum;
  }
  finish_values(a, values, row, panel);
}

// A row's sums take the same steps whatever other rows there are.
template <class Products>
Status linear_bfloat16(const LinearBFloat16 &a) {
  if (a.rows == 0) return kDone;
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns, steps = (a.depth + kPair - 1) / kPair;
  const int64_t row_size = Products::row_size(a.depth), own_size = Products::panel_size();
  const Scratch rows(1, a.rows * row_size);
  const Scratch scratch(a.threads, own_size + a.rows * kPanel);
  if (!rows || !scratch) return kNoMemory;
  parallel_rows(a.threads, a.rows, [&](int64_t row, int) {
    Products::take_row(a.x + row * a.x_stride, a.depth, rows.of(0) + row * row_size);
  });
  parallel_for(a.threads, panels, [&](int64_t panel, int thread) {
    float *own = scratch.of(thread), *sums = own + own_size;
    Products::multiply(a.rows, rows.of(0), a.depth, a.weights + panel * kPanel * steps * kPair, own, sums);
    for (int64_t row = 0; row < a.rows; ++row) finish_float_sums(a, sums + row * kPanel, row, panel);
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
