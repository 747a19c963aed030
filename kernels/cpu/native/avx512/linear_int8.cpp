// y = (x - 128) * w in 8 bits, x uint8 with a scale for each row, w int8 with a scale for each column.
//
// Weights lie in panels of 64 output columns: [panels][depth / 4][64][4], what vpdpbusd reads in order.
// The sums are exact integers, so a row's result depends neither on its neighbours nor on the tiling.
// A panel may hold 32 columns of a gate and the same 32 of what it gates; then the tile ends in
// silu(gate) * up and half as many columns are written.
#include "../common/pool.h"
#include "../common/scratch.h"
#include "kernels.h"

#include "../generic/tiling.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int64_t kItemsPerThread = 8;
// Up to so many rows, reading weights from memory takes about as long as multiplying them. Panels are
// then cut along the depth into stretches that stay in the second cache, and while the tiles of one are
// computed the next is fetched. One stretch is 128 KB of a panel.
constexpr int64_t kFewRows = 96, kStretchSteps = 512;
constexpr int64_t kStepBytes = kPanel * kDepth, kLineBytes = 64, kStepLines = kStepBytes / kLineBytes;

constexpr int kPanelVectors = kPanel / kLanes;

// vpdpbusd; by hand because GCC 12 copies the accumulator of the intrinsic to and fro, which halves the
// speed of the loop.
inline void add_products(__m512i &sum, __m512i inputs, __m512i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(weights));
}

using Tile = __m512[kTileRows][kPanelVectors];

template <int rows, int vectors, int number>
inline void add_side_rows(Tile &tile, int first_vector, const Side &side, int64_t row,
                          int64_t column, const __mmask16 *masks) {
  bool shared = true;
  if (side.first_rank != nullptr)
    for (int i = 1; i < rows; ++i) shared &= side.first_rank[row + i] == side.first_rank[row];
  if (shared) {
    const int64_t first = side.first_rank ? side.first_rank[row] : 0;
    for (int64_t r = first; r < first + side.rank_count; ++r) {
      __m512 m[vectors];
      for (int v = 0; v < vectors; ++v)
        m[v] = load_as_float<number>(side.matrix, r * side.matrix_stride + column + v * kLanes,
                                     masks[v]);
      for (int i = 0; i < rows; ++i) {
        const __m512 f = _mm512_set1_ps(side.factors[(row + i) * side.factors_stride + r]);
        for (int v = 0; v < vectors; ++v)
          tile[i][first_vector + v] = _mm512_fmadd_ps(f, m[v], tile[i][first_vector + v]);
      }
    }
    return;
  }
  for (int i = 0; i < rows; ++i) {
    const int64_t first = side.first_rank[row + i];
    for (int64_t r = first; r < first + side.rank_count; ++r) {
      const __m512 f = _mm512_set1_ps(side.factors[(row + i) * side.factors_stride + r]);
      for (int v = 0; v < vectors; ++v)
        tile[i][first_vector + v] = _mm512_fmadd_ps(
            f,
            load_as_float<number>(side.matrix, r * side.matrix_stride + column + v * kLanes,
                                  masks[v]),
            tile[i][first_vector + v]);
    }
  }
}

template <int rows, int vectors>
inline void add_side(Tile &tile, int first_vector, const Side &side, int64_t row, int64_t column,
                     const __mmask16 *masks) {
  if (side.factors == nullptr) return;
  switch (side.number) {
    case kBFloat16:
      add_side_rows<rows, vectors, kBFloat16>(tile, first_vector, side, row, column, masks);
      break;
    case kFloat16:
      add_side_rows<rows, vectors, kFloat16>(tile, first_vector, side, row, column, masks);
      break;
    default:
      add_side_rows<rows, vectors, kFloat32>(tile, first_vector, side, row, column, masks);
  }
}

// What one visit of a tile to a panel computes.
struct Visit {
  int64_t first, last;  // steps of the depth
  int32_t *sums;        // [rows, kPanel]: where they wait for the next stretch; null where there is none
  const int8_t *next;   // weights to fetch meanwhile, some lines of each step
};

// `lines` of `next` are fetched with each step.
template <int rows, int lines>
__attribute__((noinline)) void multiply_tile(const LinearInt8 &a, int64_t row, int64_t panel,
                                             const Visit &visit) {
  __m512i sums[rows][kPanelVectors];
  const int32_t *offsets = a.offsets + panel * kPanel;
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; ++v) {
    const __m512i offset = _mm512_loadu_si512(offsets + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i)
      sums[i][v] = visit.first == 0 ? offset
                                    : _mm512_loadu_si512(visit.sums + i * kPanel + v * kLanes);
  }
  const uint8_t *x = a.x + row * a.depth + visit.first * kDepth;
  const int64_t stride = a.depth;
  const int8_t *w = a.weights + panel * kPanel * a.depth + visit.first * kStepBytes;
  const char *next = reinterpret_cast<const char *>(visit.next);
  for (int64_t k = visit.first; k < visit.last; ++k) {
    __m512i weights[kPanelVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v)
      weights[v] = _mm512_loadu_si512(w + v * kLanes * kDepth);
    _mm_prefetch(reinterpret_cast<const char *>(w) + 2048, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(w) + 2048 + 64, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(w) + 2048 + 128, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(w) + 2048 + 192, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int line = 0; line < lines; ++line) _mm_prefetch(next + line * kLineBytes, _MM_HINT_T1);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      int32_t four;
      __builtin_memcpy(&four, x + i * stride, sizeof four);
      const __m512i inputs = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v)
        add_products(sums[i][v], inputs, weights[v]);
    }
    x += kDepth;
    w += kStepBytes;
    next += kStepBytes;
  }
  if (visit.last * kDepth < a.depth) {
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v)
        _mm512_storeu_si512(visit.sums + i * kPanel + v * kLanes, sums[i][v]);
    return;
  }

  Tile tile;
  const float *scales = a.w_scales + panel * kPanel;
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; ++v) {
    const __m512 scale = _mm512_loadu_ps(scales + v * kLanes);
    const __m512 bias =
        a.bias ? _mm512_loadu_ps(a.bias + panel * kPanel + v * kLanes) : _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const __m512 row_scale = _mm512_set1_ps(a.x_scales[row + i]);
      tile[i][v] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][v]), scale), row_scale,
                                   bias);
    }
  }
  const int columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t column = panel * columns;
  __mmask16 masks[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) masks[v] = lane_mask(a.columns - column - v * kLanes);
  if (a.gated) {
    add_side<rows, 2>(tile, 0, a.sides[0], row, column, masks);
    add_side<rows, 2>(tile, 0, a.sides[1], row, column, masks);
    add_side<rows, 2>(tile, 2, a.sides[2], row, column, masks);
    add_side<rows, 2>(tile, 2, a.sides[3], row, column, masks);
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < 2; ++v)
        _mm512_mask_storeu_ps(a.out + (row + i) * a.out_stride + column + v * kLanes, masks[v],
                              swiglu(tile[i][v], tile[i][v + 2]));
    return;
  }
  add_side<rows, 4>(tile, 0, a.sides[0], row, column, masks);
  add_side<rows, 4>(tile, 0, a.sides[1], row, column, masks);
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < kPanelVectors; ++v) {
      float *out = a.out + (row + i) * a.out_stride + column + v * kLanes;
      __m512 value = tile[i][v];
      if (a.add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(masks[v], out));
      _mm512_mask_storeu_ps(out, masks[v], value);
    }
}

template <int lines>
void multiply_rows(const LinearInt8 &a, int64_t row, int64_t rows, int64_t panel, const Visit &visit) {
  switch (rows) {
    case 6: multiply_tile<6, lines>(a, row, panel, visit); break;
    case 5: multiply_tile<5, lines>(a, row, panel, visit); break;
    case 4: multiply_tile<4, lines>(a, row, panel, visit); break;
    case 3: multiply_tile<3, lines>(a, row, panel, visit); break;
    case 2: multiply_tile<2, lines>(a, row, panel, visit); break;
    default: multiply_tile<1, lines>(a, row, panel, visit);
  }
}

// Tiles `first` to `last` - 1 of a panel, in stretches of `stretch` steps; of several, the one that
// follows is fetched meanwhile.
//   following: weights that this thread will likely have next, or null.
//   sums: room for the rows of all tiles; not read where one stretch is the whole depth.
void multiply_tiles(const LinearInt8 &a, const Tiling &tiling, int64_t first, int64_t last,
                    int64_t panel, int64_t stretch, const int8_t *following, int32_t *sums) {
  const int64_t steps = a.depth / kDepth, tiles = last - first;
  const int64_t lines = (kStepLines + tiles - 1) / tiles;
  const int8_t *weights = a.weights + panel * kPanel * a.depth;
  for (int64_t step = 0; step < steps; step += stretch) {
    const int64_t end = least(step + stretch, steps);
    const int8_t *next = end < steps ? weights + end * kStepBytes : following;
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t row = tiling.first_row(tile), rows = tiling.first_row(tile + 1) - row;
      // Each tile fetches its share of the lines of every step.
      const int64_t line = (tile - first) * lines;
      const bool fetches = next != nullptr && line < kStepLines;
      const Visit visit{step, end, sums + (row - tiling.first_row(first)) * kPanel,
                        fetches ? next + line * kLineBytes : weights};
      if (!fetches)
        multiply_rows<0>(a, row, rows, panel, visit);
      else if (lines == 1)
        multiply_rows<1>(a, row, rows, panel, visit);
      else if (lines == 2)
        multiply_rows<2>(a, row, rows, panel, visit);
      else
        multiply_rows<4>(a, row, rows, panel, visit);
    }
  }
}

}  // namespace

Status linear_int8(const LinearInt8 &a) {
  if (a.rows == 0) return kDone;
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns;
  const Tiling tiling(a.rows);
  // A panel is work for one thread, unless there are too few of them for all to end together.
  const int64_t wanted = (kItemsPerThread * a.threads + panels - 1) / panels;
  const int64_t splits = wanted < tiling.tiles ? wanted : tiling.tiles;
  const bool few = a.rows <= kFewRows;
  const int64_t stretch = few ? kStretchSteps : a.depth / kDepth;
  const Scratch sums(a.threads, few ? a.rows * kPanel : 0);
  if (!sums) return kNoMemory;
  parallel_for(a.threads, panels * splits, [&](int64_t item, int thread) {
    const int64_t panel = item / splits, split = item % splits;
    // Items are handed out in order, so that this thread's next one is likely `threads` further on.
    const int64_t next = (item + a.threads) / splits;
    const bool follows = few && next > panel && next < panels;
    multiply_tiles(a, tiling, tiling.tiles * split / splits, tiling.tiles * (split + 1) / splits,
                   panel, stretch, follows ? a.weights + next * kPanel * a.depth : nullptr,
                   reinterpret_cast<int32_t *>(sums.of(thread)));
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
