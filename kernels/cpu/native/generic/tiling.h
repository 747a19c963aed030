// How the rows of an 8-bit product are cut into tiles.
#pragma once

#include "functions.h"

namespace trine::TRINE_ISA {

// Tiles of equal size instead of full ones and a rest: 32 rows are 6 + 6 + 5 + 5 + 5 + 5.
struct Tiling {
  int64_t tiles, least, larger;

  explicit Tiling(int64_t rows)
      : tiles((rows + kTileRows - 1) / kTileRows), least(rows / tiles), larger(rows % tiles) {}

  int64_t first_row(int64_t tile) const { return tile * least + (tile < larger ? tile : larger); }
};

}  // namespace trine::TRINE_ISA
