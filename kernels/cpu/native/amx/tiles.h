// The tiles of AMX: eight registers of 16 rows of 64 bytes. A test on a processor without them puts others in
// their stead, under the same names.
#pragma once

#if !defined(TRINE_EMULATED_TILES)

#include <immintrin.h>

#include <stdint.h>

namespace trine::TRINE_ISA {

// Gives the thread whole tiles while it lives; others of the process are not touched.
class Tiles {
 public:
  Tiles() {
    alignas(64) Configuration whole = {};
    whole.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      whole.row_bytes[tile] = 64;
      whole.rows[tile] = 16;
    }
    // The intrinsic of GCC 12 tells the compiler of 8 bytes that are read, not of 64.
    asm volatile("ldtilecfg %0" : : "m"(whole));
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;

 private:
  struct Configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
};

}  // namespace trine::TRINE_ISA

#endif
