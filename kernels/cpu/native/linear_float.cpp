// Products in float32: layers that are kept wide, and the small factors of adapters.
#include "pool.h"
#include "scratch.h"
#include "simd.h"
#include "tile.h"

#include <algorithm>

namespace trine {
namespace {

constexpr int64_t kBlockDepth = 512;  // rows of a weight block: 128 KiB with 64 columns

struct LinearFloat {
  const float *x;
  int64_t rows;
  int64_t depth;
  int64_t x_stride;
  const void *weights;  // [depth, columns], packed
  const float *bias;    // [columns] or null
  int64_t columns;
  float *out;
  int64_t out_stride;
  int32_t number;  // of the weights
  int32_t add;     // whether the result is added to what `out` holds
  int32_t threads;
  int32_t reserved;
};

template <int number>
void copy_block(const LinearFloat &a, int64_t first, int64_t count, int64_t column, float *block) {
  for (int64_t k = 0; k < count; ++k)
    for (int v = 0; v < kPanelVectors; ++v)
      _mm512_store_ps(block + k * kPanel + v * kLanes,
                      load_as_float<number>(a.weights, (first + k) * a.columns + column + v * kLanes,
                                            lane_mask(a.columns - column - v * kLanes)));
}

void multiply_panel(const LinearFloat &a, int64_t panel, float *block, float *sums) {
  const int64_t column = panel * kPanel;
  for (int64_t first = 0; first < a.depth; first += kBlockDepth) {
    const int64_t count = std::min(kBlockDepth, a.depth - first);
    switch (a.number) {
      case kBFloat16: copy_block<kBFloat16>(a, first, count, column, block); break;
      case kFloat16: copy_block<kFloat16>(a, first, count, column, block); break;
      default: copy_block<kFloat32>(a, first, count, column, block);
    }
    multiply_rows<Float32, kPanelVectors>(a.rows, a.x + first, a.x_stride, block, kPanel, count, sums,
                                       kPanel, first > 0);
  }
  for (int64_t row = 0; row < a.rows; ++row)
    for (int v = 0; v < kPanelVectors; ++v) {
      const __mmask16 m = lane_mask(a.columns - column - v * kLanes);
      float *out = a.out + row * a.out_stride + column + v * kLanes;
      __m512 value = _mm512_load_ps(sums + row * kPanel + v * kLanes);
      if (a.bias)
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(m, a.bias + column + v * kLanes));
      if (a.add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(m, out));
      _mm512_mask_storeu_ps(out, m, value);
    }
}

// factors[row, r] = x[row] . matrix[r], for `rank_count` ranks of each row from its first one on.
struct Project {
  const float *x;
  int64_t rows;
  int64_t depth;
  int64_t x_stride;
  const void *matrix;  // [ranks, depth], packed
  const int32_t *first_rank;  // [rows], or null for 0
  int64_t rank_count;
  float *factors;
  int64_t factors_stride;
  int32_t number;
  int32_t threads;
};

constexpr int kProjectRows = 4, kProjectRanks = 4;

template <int rows, int number>
inline void project_tile(const Project &a, int64_t row, int64_t first) {
  const float *x = a.x + row * a.x_stride;
  for (int64_t r = 0; r < a.rank_count; r += kProjectRanks) {
    __m512 sums[rows][kProjectRanks];
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < kProjectRanks; ++j) sums[i][j] = _mm512_setzero_ps();
    int64_t ranks[kProjectRanks];
    for (int j = 0; j < kProjectRanks; ++j)
      ranks[j] = (first + std::min<int64_t>(r + j, a.rank_count - 1)) * a.depth;
    for (int64_t k = 0; k < a.depth; k += kLanes) {
      const __mmask16 m = lane_mask(a.depth - k);
      __m512 columns[kProjectRanks];
      for (int j = 0; j < kProjectRanks; ++j)
        columns[j] = load_as_float<number>(a.matrix, ranks[j] + k, m);
      for (int i = 0; i < rows; ++i) {
        const __m512 v = _mm512_maskz_loadu_ps(m, x + i * a.x_stride + k);
        for (int j = 0; j < kProjectRanks; ++j)
          sums[i][j] = _mm512_fmadd_ps(v, columns[j], sums[i][j]);
      }
    }
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < kProjectRanks && r + j < a.rank_count; ++j)
        a.factors[(row + i) * a.factors_stride + first + r + j] = _mm512_reduce_add_ps(sums[i][j]);
  }
}

template <int number>
void project(const Project &a) {
  const int64_t tiles = (a.rows + kProjectRows - 1) / kProjectRows;
  parallel_rows(a.threads, tiles, [&](int64_t tile, int) {
    const int64_t row = tile * kProjectRows;
    const int64_t count = std::min<int64_t>(kProjectRows, a.rows - row);
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

}  // namespace

TRINE_API void trine_linear_float(const LinearFloat *arguments) {
  const LinearFloat &a = *arguments;
  const int64_t panels = (a.columns + kPanel - 1) / kPanel;
  const int64_t block = kBlockDepth * kPanel;
  Scratch scratch(a.threads, block + a.rows * kPanel);
  parallel_for(a.threads, panels, [&](int64_t panel, int thread) {
    float *own = scratch.of(thread);
    multiply_panel(a, panel, own, own + block);
  });
}

TRINE_API void trine_project(const Project *arguments) {
  switch (arguments->number) {
    case kBFloat16: project<kBFloat16>(*arguments); break;
    case kFloat16: project<kFloat16>(*arguments); break;
    default: project<kFloat32>(*arguments);
  }
}

}  // namespace trine
