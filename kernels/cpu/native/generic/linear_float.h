// Products in float32: layers that are kept wide, and the small factors of adapters.
#pragma once

#include "../common/pool.h"
#include "../common/scratch.h"
#include "tile.h"

namespace trine::TRINE_ISA {

// A weight block: as many columns as make whole cache lines worth fetching from afar, in tiles of
// [rows][kTile] behind one another. Of 64 columns 512 rows are 128 KiB, 128 rows 32 KiB.
constexpr int kBlockColumns = 64, kPanelLoads = kBlockColumns / kLanes;
constexpr int64_t kBlockDepth = kLanes == 16 ? 512 : 128;

template <int number>
void copy_block(const LinearFloat &a, int64_t first, int64_t count, int64_t column, float *block) {
  for (int64_t k = 0; k < count; ++k)
    for (int v = 0; v < kPanelLoads; ++v)
      store(block + (v / kTileVectors * kBlockDepth + k) * kTile + v % kTileVectors * kLanes,
            load_as_float<number>(a.weights, (first + k) * a.columns + column + v * kLanes,
                                  lane_mask(a.columns - column - v * kLanes)));
}

inline void multiply_panel(const LinearFloat &a, int64_t panel, float *block, float *sums) {
  const int64_t column = panel * kBlockColumns;
  for (int64_t first = 0; first < a.depth; first += kBlockDepth) {
    const int64_t count = least(kBlockDepth, a.depth - first);
    switch (a.number) {
      case kBFloat16: copy_block<kBFloat16>(a, first, count, column, block); break;
      case kFloat16: copy_block<kFloat16>(a, first, count, column, block); break;
      default: copy_block<kFloat32>(a, first, count, column, block);
    }
    for (int tile = 0; tile < kBlockColumns / kTile; ++tile)
      multiply_rows<Float32, kTileVectors>(a.rows, a.x + first, a.x_stride,
                                           block + tile * kBlockDepth * kTile, kTile, count,
                                           sums + tile * kTile, kBlockColumns, first > 0);
  }
  for (int64_t row = 0; row < a.rows; ++row)
    for (int v = 0; v < kPanelLoads; ++v) {
      const Mask m = lane_mask(a.columns - column - v * kLanes);
      float *out = a.out + row * a.out_stride + column + v * kLanes;
      Floats value = load(sums + row * kBlockColumns + v * kLanes);
      if (a.bias)
        value = add(value, load(a.bias + column + v * kLanes, m));
      if (a.add) value = add(value, load(out, m));
      store(out, m, value);
    }
}

// Sums of a tile, which stay in registers.
constexpr int kProjectRows = kLanes == 16 ? 4 : 2, kProjectRanks = 4;

template <int rows, int number>
inline void project_tile(const Project &a, int64_t row, int64_t first) {
  const float *x = a.x + row * a.x_stride;
  for (int64_t r = 0; r < a.rank_count; r += kProjectRanks) {
    Floats sums[rows][kProjectRanks];
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < kProjectRanks; ++j) sums[i][j] = zero();
    int64_t ranks[kProjectRanks];
    for (int j = 0; j < kProjectRanks; ++j)
      ranks[j] = (first + least(r + j, a.rank_count - 1)) * a.depth;
    for (int64_t k = 0; k < a.depth; k += kLanes) {
      const Mask m = lane_mask(a.depth - k);
      Floats columns[kProjectRanks];
      for (int j = 0; j < kProjectRanks; ++j)
        columns[j] = load_as_float<number>(a.matrix, ranks[j] + k, m);
      for (int i = 0; i < rows; ++i) {
        const Floats v = load(x + i * a.x_stride + k, m);
        for (int j = 0; j < kProjectRanks; ++j)
          sums[i][j] = multiply_add(v, columns[j], sums[i][j]);
      }
    }
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < kProjectRanks && r + j < a.rank_count; ++j)
        a.factors[(row + i) * a.factors_stride + first + r + j] = sum_of(sums[i][j]);
  }
}

template <int number>
void project(const Project &a) {
  const int64_t tiles = (a.rows + kProjectRows - 1) / kProjectRows;
  parallel_rows(a.threads, tiles, [&](int64_t tile, int) {
    const int64_t row = tile * kProjectRows;
    const int64_t count = least(kProjectRows, a.rows - row);
    bool shared = count == kProjectRows;
    if (a.first_rank != nullptr)
      for (int64_t i = 1; i < count; ++i) shared &= a.first_rank[row + i] == a.first_rank[row];
    if (shared) {
      project_tile<kProjectRows, number>(a, row, a.first_rank ? a.first_rank[row] : 0);
      return;
    }
    for (int64_t i = 0; i < count; ++i)
      project_tile<1, number>(a, row + i, a.first_rank ? a.first_rank[row + i] : 0);
  });
}

inline Status linear_float(const LinearFloat &a) {
  const int64_t panels = (a.columns + kBlockColumns - 1) / kBlockColumns;
  const int64_t block = kBlockDepth * kBlockColumns;
  const Scratch scratch(a.threads, block + a.rows * kBlockColumns);
  if (!scratch) return kNoMemory;
  parallel_for(a.threads, panels, [&](int64_t panel, int thread) {
    float *own = scratch.of(thread);
    multiply_panel(a, panel, own, own + block);
  });
  return kDone;
}

inline Status project(const Project &a) {
  switch (a.number) {
    case kBFloat16: project<kBFloat16>(a); break;
    case kFloat16: project<kFloat16>(a); break;
    default: project<kFloat32>(a);
  }
  return kDone;
}

}  // namespace trine::TRINE_ISA
