// The tile with float32 sums: [rows, depth] times [depth, lanes * vectors], in registers.
#pragma once

#include "functions.h"

namespace trine::TRINE_ISA {

struct Float32 {
  static Floats add(Floats sum, Floats x, Floats y) { return multiply_add(x, y, sum); }
};

// c (+)= a * b. Sums run over the depth in order, so a row does not depend on the others. `Format` says
// how what stands in the place of a float32 is multiplied.
template <class Format, int rows, int vectors>
inline void multiply_tile(const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                          int64_t depth, float *c, int64_t c_stride, bool add) {
  Floats sums[rows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      sums[i][v] = add ? load(c + i * c_stride + v * kLanes) : zero();
  for (int64_t k = 0; k < depth; ++k) {
    Floats columns[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) columns[v] = load(b + k * b_stride + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const Floats x = set(a[i * a_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[i][v] = Format::add(sums[i][v], x, columns[v]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      store(c + i * c_stride + v * kLanes, sums[i][v]);
}

template <class Format, int vectors>
inline void multiply_rows(int64_t rows, const float *a, int64_t a_stride, const float *b,
                          int64_t b_stride, int64_t depth, float *c, int64_t c_stride, bool add) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows)
    multiply_tile<Format, kTileRows, vectors>(a + row * a_stride, a_stride, b, b_stride, depth,
                                              c + row * c_stride, c_stride, add);
  a += row * a_stride;
  c += row * c_stride;
  switch (rows - row) {
    case 5:
      multiply_tile<Format, 5, vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
      break;
    case 4:
      multiply_tile<Format, 4, vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
      break;
    case 3:
      multiply_tile<Format, 3, vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
      break;
    case 2:
      multiply_tile<Format, 2, vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
      break;
    case 1:
      multiply_tile<Format, 1, vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
      break;
    default: break;
  }
}

}  // namespace trine::TRINE_ISA
