// What follows a product of packed weights: scales, bias, float32 sides and SwiGLU, a row of a panel at a time.
#pragma once

#include "functions.h"

namespace trine::TRINE_ISA {

constexpr int kPanelVectors = kPanel / kLanes;

// Adds a row's own ranks of a side to `vectors` vectors.
template <int vectors, int number>
inline void add_side_row(Floats *values, const Side &side, int64_t row, int64_t column,
                         int64_t columns) {
  const float *factors = side.factors + row * side.factors_stride;
  const int64_t first = side.first_rank ? side.first_rank[row] : 0;
  for (int64_t r = first; r < first + side.rank_count; ++r) {
    const Floats f = set(factors[r]);
    for (int v = 0; v < vectors; ++v)
      values[v] = multiply_add(
          f,
          load_as_float<number>(side.matrix, r * side.matrix_stride + column + v * kLanes,
                                lane_mask(columns - column - v * kLanes)),
          values[v]);
  }
}

template <int vectors>
inline void add_side(Floats *values, const Side &side, int64_t row, int64_t column,
                     int64_t columns) {
  if (side.factors == nullptr) return;
  switch (side.number) {
    case kBFloat16: add_side_row<vectors, kBFloat16>(values, side, row, column, columns); break;
    case kFloat16: add_side_row<vectors, kFloat16>(values, side, row, column, columns); break;
    default: add_side_row<vectors, kFloat32>(values, side, row, column, columns);
  }
}

// Writes a row of a panel, its sides and SwiGLU with it. `Linear` is either structure of a product.
template <class Linear>
inline void finish_values(const Linear &a, Floats (&values)[kPanelVectors], int64_t row,
                          int64_t panel) {
  constexpr int kHalf = kPanelVectors / 2;
  const int64_t column = panel * (a.gated ? kPanel / 2 : kPanel);
  float *out = a.out + row * a.out_stride + column;
  if (a.gated) {
    add_side<kHalf>(values, a.sides[0], row, column, a.columns);
    add_side<kHalf>(values, a.sides[1], row, column, a.columns);
    add_side<kHalf>(values + kHalf, a.sides[2], row, column, a.columns);
    add_side<kHalf>(values + kHalf, a.sides[3], row, column, a.columns);
    for (int v = 0; v < kHalf; ++v)
      store(out + v * kLanes, lane_mask(a.columns - column - v * kLanes),
            swiglu(values[v], values[v + kHalf]));
    return;
  }
  add_side<kPanelVectors>(values, a.sides[0], row, column, a.columns);
  add_side<kPanelVectors>(values, a.sides[1], row, column, a.columns);
  for (int v = 0; v < kPanelVectors; ++v) {
    const Mask mask = lane_mask(a.columns - column - v * kLanes);
    if (a.add) values[v] = add(values[v], load(out + v * kLanes, mask));
    store(out + v * kLanes, mask, values[v]);
  }
}

// Writes a row of a panel, whose exact products, the offset among them, are `values`, as float32.
inline void finish_row(const LinearInt8 &a, Floats (&values)[kPanelVectors], int64_t row,
                       int64_t panel) {
  const Floats row_scale = set(a.x_scales[row]);
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t at = panel * kPanel + v * kLanes;
    const Floats bias = a.bias ? load(a.bias + at) : zero();
    values[v] = multiply_add(multiply(values[v], load(a.w_scales + at)), row_scale, bias);
  }
  finish_values(a, values, row, panel);
}

// The same of sums [kPanel] in int32.
inline void finish_sums(const LinearInt8 &a, const int32_t *sums, int64_t row, int64_t panel) {
  Floats values[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) values[v] = load_integers(sums + v * kLanes);
  finish_row(a, values, row, panel);
}

}  // namespace trine::TRINE_ISA
