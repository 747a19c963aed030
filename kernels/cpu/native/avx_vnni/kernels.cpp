// The kernels of AVX2 with AVX-VNNI, whose 8-bit products need no widening.
//
// y = (x - 128) * w: weights are read as they lie in their panels, [depth / 4][64][4], 16 columns at a
// time, and a tile's sums stay in registers over the whole depth. They are exact integers.
#include "../avx2/simd.h"
// Vectors first.
#include "../common/pool.h"
#include "../common/scratch.h"
#include "../common/table.h"
#include "../generic/epilogue.h"
#include "../generic/tiling.h"
#include "dot.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int64_t kItemsPerThread = 8;
constexpr int kGroup = 2 * kLanes;  // columns of a tile: 6 x 2 sums, 2 weights and 1 input fit 16 registers
constexpr int64_t kStepBytes = kPanel * kDepth;

// sums[rows, 16 of a panel], the offsets among them.
template <int rows>
void multiply_tile(const LinearInt8 &a, int64_t row, int64_t panel, int group, int32_t *sums) {
  const __m256i *offsets =
      reinterpret_cast<const __m256i *>(a.offsets + panel * kPanel + group * kGroup);
  const int8_t *w = a.weights + panel * kPanel * a.depth + group * kGroup * kDepth;
  const uint8_t *x = a.x + row * a.depth;
  __m256i left[rows], right[rows];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    left[i] = _mm256_loadu_si256(offsets);
    right[i] = _mm256_loadu_si256(offsets + 1);
  }
  for (int64_t k = 0; k < a.depth; k += kDepth, w += kStepBytes) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w) + 1);
    _mm_prefetch(reinterpret_cast<const char *>(w) + 8 * kStepBytes, _MM_HINT_T0);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      int32_t four;
      memcpy(&four, x + i * a.depth + k, sizeof four);
      const __m256i inputs = _mm256_set1_epi32(four);
      add_products(left[i], inputs, first);
      add_products(right[i], inputs, second);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    __m256i *to = reinterpret_cast<__m256i *>(sums + i * kPanel + group * kGroup);
    _mm256_storeu_si256(to, left[i]);
    _mm256_storeu_si256(to + 1, right[i]);
  }
}

void multiply_rows(const LinearInt8 &a, int64_t row, int64_t rows, int64_t panel, int group,
                   int32_t *sums) {
  switch (rows) {
    case 6: multiply_tile<6>(a, row, panel, group, sums); break;
    case 5: multiply_tile<5>(a, row, panel, group, sums); break;
    case 4: multiply_tile<4>(a, row, panel, group, sums); break;
    case 3: multiply_tile<3>(a, row, panel, group, sums); break;
    case 2: multiply_tile<2>(a, row, panel, group, sums); break;
    default: multiply_tile<1>(a, row, panel, group, sums);
  }
}

Status linear_int8(const LinearInt8 &a) {
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
      for (int group = 0; group < kPanel / kGroup; ++group)
        multiply_rows(a, row, rows, panel, group, sums);
      for (int64_t i = 0; i < rows; ++i) {
        Floats values[kPanelVectors];
        for (int v = 0; v < kPanelVectors; ++v)
          values[v] = _mm256_cvtepi32_ps(_mm256_loadu_si256(
              reinterpret_cast<const __m256i *>(sums + i * kPanel + v * kLanes)));
        finish_row(a, values, row + i, panel);
      }
    }
  });
  return kDone;
}

}  // namespace

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = avx2::kernels();
    mixed.linear_int8 = linear_int8;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
