// Products of packed weights on tiles, in 8 bits and in bfloat16: both are 64 bytes of depth a step, four or two
// numbers in each 32 bits, so that they differ in one instruction. Weights are read as they lie in their panels,
// [depth in 32 bits][64 columns]: a tile is 16 lines, 256 bytes apart.
//
// Sums in 8 bits are exact, those of bfloat16 take the same steps whatever other rows there are.
#pragma once

#include <string.h>

#include "../common/pool.h"
#include "../common/scratch.h"
#include "../generic/linear_bfloat16.h"
#include "tiles.h"

namespace trine::TRINE_ISA {

constexpr int64_t kTileSide = 16, kStepBytes = 64, kTileBytes = kTileSide * kStepBytes;
constexpr int64_t kLineBytes = kPanel * 4, kPairRows = 2 * kTileSide;
constexpr int64_t kItemsPerThread = 8;
// Up to so many rows, reading weights from memory takes as long as multiplying: the next panel is fetched meanwhile.
constexpr int64_t kFewRows = 64;

// How 64 bytes of a row and of a column are multiplied.
enum class Format { kInt8, kBFloat16 };

#define TRINE_PRODUCT(sum, rows, columns)        \
  if constexpr (format == Format::kInt8)         \
    _tile_dpbusd(sum, rows, columns);            \
  else                                           \
    _tile_dpbf16ps(sum, rows, columns)

// A panel as tiles read it: whole steps where it lies, and what is left filled with zeros.
struct Panel {
  const uint8_t *whole;
  int64_t steps;        // of `whole`
  const uint8_t *rest;  // one step, or null
  const uint8_t *next;  // to fetch, or null
};

inline void fetch_step(const uint8_t *next, int64_t first_line, int64_t lines) {
  for (int64_t line = first_line; line < first_line + lines; ++line)
    for (int64_t byte = 0; byte < kLineBytes; byte += 64)
      _mm_prefetch(reinterpret_cast<const char *>(next) + line * kLineBytes + byte, _MM_HINT_T1);
}

// sums[32, 64] of two tiles of rows: 32 columns at a time, so that each tile that is loaded is used twice.
template <Format format>
void multiply_pair(const uint8_t *x, int64_t row_steps, const Panel &panel, bool fetch, uint8_t *sums) {
  const uint8_t *lower = x + row_steps * kTileBytes;
  for (int half = 0; half < 2; ++half) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < row_steps; ++step) {
      const bool inside = step < panel.steps;
      const uint8_t *w = (inside ? panel.whole + step * kTileSide * kLineBytes : panel.rest) + half * 128;
      _tile_loadd(4, x + step * kTileBytes, kStepBytes);
      _tile_loadd(6, w, kLineBytes);
      _tile_loadd(7, w + 64, kLineBytes);
      if (fetch && inside) fetch_step(panel.next + step * kTileSide * kLineBytes, half * 8, 8);
      TRINE_PRODUCT(0, 4, 6);
      _tile_loadd(5, lower + step * kTileBytes, kStepBytes);
      TRINE_PRODUCT(1, 4, 7);
      TRINE_PRODUCT(2, 5, 6);
      TRINE_PRODUCT(3, 5, 7);
    }
    uint8_t *to = sums + half * 128;
    _tile_stored(0, to, kLineBytes);
    _tile_stored(1, to + 64, kLineBytes);
    _tile_stored(2, to + kTileSide * kLineBytes, kLineBytes);
    _tile_stored(3, to + kTileSide * kLineBytes + 64, kLineBytes);
  }
}

// sums[16, 64] of one tile of rows, which is loaded once for all columns.
template <Format format>
void multiply_single(const uint8_t *x, int64_t row_steps, const Panel &panel, bool fetch, uint8_t *sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < row_steps; ++step) {
    const bool inside = step < panel.steps;
    const uint8_t *w = inside ? panel.whole + step * kTileSide * kLineBytes : panel.rest;
    _tile_loadd(4, x + step * kTileBytes, kStepBytes);
    _tile_loadd(5, w, kLineBytes);
    _tile_loadd(6, w + 64, kLineBytes);
    if (fetch && inside) fetch_step(panel.next + step * kTileSide * kLineBytes, 0, kTileSide);
    TRINE_PRODUCT(0, 4, 5);
    _tile_loadd(7, w + 128, kLineBytes);
    TRINE_PRODUCT(1, 4, 6);
    _tile_loadd(5, w + 192, kLineBytes);
    TRINE_PRODUCT(2, 4, 7);
    TRINE_PRODUCT(3, 4, 5);
  }
  _tile_stored(0, sums, kLineBytes);
  _tile_stored(1, sums + 64, kLineBytes);
  _tile_stored(2, sums + 128, kLineBytes);
  _tile_stored(3, sums + 192, kLineBytes);
}

#undef TRINE_PRODUCT

// What is left of a panel after its whole steps, zeros behind it. The loads of tiles say nothing to the
// compiler of what they read: it is written before they begin.
inline void fill_rest(const uint8_t *from, int64_t lines, uint8_t *to) {
  memset(to, 0, kTileSide * kLineBytes);
  memcpy(to, from, static_cast<size_t>(lines * kLineBytes));
  asm volatile("" : : "r"(to) : "memory");
}

// Goes through all panels. `take_row(row, place)` writes a row's bytes for step s at place + s * kTileBytes,
// `finish(sums, row, panel)` what 64 sums come to. `depth` counts 32 bits.
template <Format format, class Linear, class TakeRow, class Finish>
Status multiply_on_tiles(const Linear &a, int64_t depth, const TakeRow &take_row, const Finish &finish) {
  if (a.rows == 0) return kDone;
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns;
  const int64_t steps = depth / kTileSide, rest = depth % kTileSide, row_steps = steps + (rest != 0);
  const int64_t tiles = (a.rows + kTileSide - 1) / kTileSide, pairs = (tiles + 1) / 2;
  const Scratch rows(1, tiles * row_steps * kTileBytes / 4);
  const int64_t sums_size = kPairRows * kPanel, rest_size = kTileSide * kPanel;
  const Scratch scratch(a.threads, sums_size + rest_size);
  if (!rows || !scratch) return kNoMemory;
  uint8_t *x = reinterpret_cast<uint8_t *>(rows.of(0));
  parallel_for(a.threads, tiles, [&](int64_t tile, int) {
    uint8_t *own = x + tile * row_steps * kTileBytes;
    memset(own, 0, static_cast<size_t>(row_steps * kTileBytes));
    for (int64_t row = 0; row < least(kTileSide, a.rows - tile * kTileSide); ++row)
      take_row(tile * kTileSide + row, own + row * kStepBytes);
  });
  // A panel is work for one thread, unless there are too few of them for all to end together.
  const int64_t wanted = (kItemsPerThread * a.threads + panels - 1) / panels;
  const int64_t splits = least(wanted, pairs);
  const uint8_t *weights = reinterpret_cast<const uint8_t *>(a.weights);
  parallel_for(a.threads, panels * splits, [&](int64_t item, int thread) {
    const Tiles configured;
    const int64_t panel = item / splits, split = item % splits;
    const int64_t next = (item + a.threads) / splits;  // which this thread likely has then
    float *sums = scratch.of(thread);
    uint8_t *left = reinterpret_cast<uint8_t *>(sums + sums_size);
    const uint8_t *own = weights + panel * depth * kLineBytes;
    if (rest != 0) fill_rest(own + steps * kTileSide * kLineBytes, rest, left);
    const bool fetch = a.rows <= kFewRows && next > panel && next < panels;
    const Panel read = {own, steps, left, fetch ? weights + next * depth * kLineBytes : nullptr};
    const int64_t first = pairs * split / splits, last = pairs * (split + 1) / splits;
    for (int64_t pair = first; pair < last; ++pair) {
      const uint8_t *from = x + 2 * pair * row_steps * kTileBytes;
      uint8_t *to = reinterpret_cast<uint8_t *>(sums);
      if (2 * pair + 1 < tiles)
        multiply_pair<format>(from, row_steps, read, fetch && pair == first, to);
      else
        multiply_single<format>(from, row_steps, read, fetch && pair == first, to);
      const int64_t row = pair * kPairRows;
      for (int64_t i = 0; i < least(kPairRows, a.rows - row); ++i) finish(sums + i * kPanel, row + i, panel);
    }
  });
  return kDone;
}

inline Status linear_int8(const LinearInt8 &a) {
  const auto take_row = [&](int64_t row, uint8_t *place) {
    const uint8_t *x = a.x + row * a.depth;
    for (int64_t k = 0; k < a.depth; k += kStepBytes, place += kTileBytes)
      memcpy(place, x + k, static_cast<size_t>(least(kStepBytes, a.depth - k)));
  };
  const auto finish = [&](const float *sums, int64_t row, int64_t panel) {
    Floats values[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v)
      values[v] = _mm512_cvtepi32_ps(
          _mm512_add_epi32(_mm512_loadu_si512(sums + v * kLanes),
                           _mm512_loadu_si512(a.offsets + panel * kPanel + v * kLanes)));
    finish_row(a, values, row, panel);
  };
  return multiply_on_tiles<Format::kInt8>(a, a.depth / kDepth, take_row, finish);
}

inline Status linear_bfloat16_on_tiles(const LinearBFloat16 &a) {
  constexpr int64_t kStep = kStepBytes / 2;
  const auto take_row = [&](int64_t row, uint8_t *place) {
    const float *x = a.x + row * a.x_stride;
    for (int64_t k = 0; k < a.depth; k += kStep, place += kTileBytes)
      for (int64_t i = 0; i < least(kStep, a.depth - k); ++i) {
        const uint16_t half = static_cast<uint16_t>(rounded_bits(x[k + i]) >> 16);
        memcpy(place + 2 * i, &half, sizeof half);
      }
  };
  const auto finish = [&](const float *sums, int64_t row, int64_t panel) {
    finish_float_sums(a, sums, row, panel);
  };
  return multiply_on_tiles<Format::kBFloat16>(a, (a.depth + kPair - 1) / kPair, take_row, finish);
}

}  // namespace trine::TRINE_ISA
