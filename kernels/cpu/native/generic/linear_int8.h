// The way through an 8-bit product whose weights are read as they lie in their panels and whose tiles keep
// their sums over the whole depth. Sums are exact integers, so a row's result depends neither on its
// neighbours nor on the tiling.
#pragma once

#include "../common/pool.h"
#include "epilogue.h"
#include "tiling.h"

namespace trine::TRINE_ISA {

constexpr int64_t kItemsPerThread = 8;
constexpr int64_t kStepBytes = kPanel * kDepth;

// Sums of (x - 128) * w of a panel, kTileRows rows at most, `Multiply::kColumns` columns at a time:
// Multiply::sum<rows>(a, row, panel, first, sums) writes sums[rows, kColumns from the panel's `first` on], of
// row stride kPanel.
template <class Multiply, int rows>
void sum_rows(const LinearInt8 &a, int64_t row, int64_t panel, int32_t *sums) {
  for (int first = 0; first < kPanel; first += Multiply::kColumns)
    Multiply::template sum<rows>(a, row, panel, first, sums + first);
}

template <class Multiply>
void sum_tile(const LinearInt8 &a, int64_t row, int64_t rows, int64_t panel, int32_t *sums) {
  switch (rows) {
    case 6: sum_rows<Multiply, 6>(a, row, panel, sums); break;
    case 5: sum_rows<Multiply, 5>(a, row, panel, sums); break;
    case 4: sum_rows<Multiply, 4>(a, row, panel, sums); break;
    case 3: sum_rows<Multiply, 3>(a, row, panel, sums); break;
    case 2: sum_rows<Multiply, 2>(a, row, panel, sums); break;
    default: sum_rows<Multiply, 1>(a, row, panel, sums);
  }
}

template <class Multiply>
Status linear_int8_with(const LinearInt8 &a) {
  if (a.rows == 0) return kDone;
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns;
  const Tiling tiling(a.rows);
  // A panel is work for one thread, unless there are too few of them for all to end together.
  const int64_t splits = least((kItemsPerThread * a.threads + panels - 1) / panels, tiling.tiles);
  parallel_for(a.threads, panels * splits, [&](int64_t item, int) {
    const int64_t panel = item / splits, split = item % splits;
    for (int64_t tile = tiling.tiles * split / splits; tile < tiling.tiles * (split + 1) / splits;
         ++tile) {
      const int64_t row = tiling.first_row(tile), rows = tiling.first_row(tile + 1) - row;
      int32_t sums[kTileRows * kPanel];
      sum_tile<Multiply>(a, row, rows, panel, sums);
      for (int64_t i = 0; i < rows; ++i) finish_sums(a, sums + i * kPanel, row + i, panel);
    }
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
