// The tiles of AMX in plain C++, number for number, for processors without them. Sums of bfloat16 are rounded
// as the instruction does it: products of each pair's first numbers and of its second are summed apart, each
// step to the nearest, then both are added to the tile; subnormal numbers are 0.
#pragma once

#include <immintrin.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TRINE_EMULATED_TILES 1

namespace trine::TRINE_ISA {
namespace emulated {

struct Tile {
  uint8_t bytes[16][64];
};

struct State {
  bool configured;
  Tile tiles[8];
};

// A tile's name is `static` to each folder, its state to each thread.
inline State &state() {
  static thread_local State own;
  return own;
}

inline Tile &tile(int number) {
  // As the processor does, which ends a process that uses tiles it did not configure.
  if (!state().configured) __builtin_trap();
  return state().tiles[number];
}

inline void load(int number, const void *base, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    memcpy(tile(number).bytes[row], static_cast<const uint8_t *>(base) + row * stride, 64);
}

inline void store(int number, void *base, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    memcpy(static_cast<uint8_t *>(base) + row * stride, tile(number).bytes[row], 64);
}

inline void zero(int number) { memset(&tile(number), 0, sizeof(Tile)); }

template <class Number>
Number at(const Tile &from, int row, int index) {
  Number found;
  memcpy(&found, from.bytes[row] + index * static_cast<int>(sizeof found), sizeof found);
  return found;
}

template <class Number>
void put(Tile &to, int row, int column, Number value) {
  memcpy(to.bytes[row] + column * static_cast<int>(sizeof value), &value, sizeof value);
}

// A holds `First`, B `Second`: four of them in each 32 bits.
template <class First, class Second>
void multiply_bytes(int sum, int a, int b) {
  Tile &to = tile(sum);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      int32_t total = at<int32_t>(to, row, column);
      for (int k = 0; k < 16; ++k)
        for (int part = 0; part < 4; ++part)
          total += at<First>(tile(a), row, 4 * k + part) * at<Second>(tile(b), k, 4 * column + part);
      put(to, row, column, total);
    }
}

inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; }

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return flushed(wide);
}

inline void multiply_bfloat16(int sum, int a, int b) {
  Tile &to = tile(sum);
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      float totals[2] = {};
      for (int k = 0; k < 16; ++k)
        for (int part = 0; part < 2; ++part)
          totals[part] = flushed(fmaf(widened(at<uint16_t>(tile(a), row, 2 * k + part)),
                                      widened(at<uint16_t>(tile(b), k, 2 * column + part)), totals[part]));
      put(to, row, column, flushed(at<float>(to, row, column) + flushed(totals[0] + totals[1])));
    }
}

}  // namespace emulated

class Tiles {
 public:
  Tiles() { emulated::state().configured = true; }
  ~Tiles() { emulated::state().configured = false; }
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;
};

}  // namespace trine::TRINE_ISA

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadd(tile, base, stride) emulated::load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated::store(tile, base, stride)
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_dpbusd(sum, a, b) emulated::multiply_bytes<uint8_t, int8_t>(sum, a, b)
#define _tile_dpbssd(sum, a, b) emulated::multiply_bytes<int8_t, int8_t>(sum, a, b)
#define _tile_dpbf16ps(sum, a, b) emulated::multiply_bfloat16(sum, a, b)
