// y = (x - 128) * w in 8 bits on AVX2, which has no exact product of 8-bit numbers: vpmaddubsw saturates.
//
// Both factors are widened to 16 bits and multiplied by vpmaddwd, which adds two products exactly:
//   x: [steps][rows of the tile][4], less 128, once for all panels;
//   w: [steps][8 columns][4], eight columns of a panel, once for all tiles of an item.
// One instruction multiplies four inputs of a row by four columns, and its sums are of two inputs each:
// [column 0 a, column 0 b, column 1 a, …]; the pairs are added at a stretch's end. The sums are exact
// integers, so a row's result depends neither on its neighbours nor on the tiling.
#include "kernels.h"

#include "../common/pool.h"
#include "../common/scratch.h"
#include "../generic/epilogue.h"
#include "../generic/tiling.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int64_t kItemsPerThread = 8;
constexpr int64_t kRowsAtOnce = 384;      // whose widened inputs are held: 8 MB at a depth of 11,008
// Of a stretch of the depth. Widened weights of two groups take 16 KB, those of a tile's inputs 6 KB: both
// stay in the first cache.
constexpr int64_t kStretchSteps = 128;
constexpr int kGroupsAtOnce = 2;
constexpr int64_t kFewTiles = 2;  // up to so many, widened weights are not worth their storing
constexpr int kGroup = 8;                 // columns
constexpr int kGroups = kPanel / kGroup;
constexpr int64_t kStepBytes = kPanel * kDepth;
constexpr int64_t kWideStep = kGroup * kDepth;  // numbers of a step of widened weights

// Widens the rows of one tile.
void widen_tile(const LinearInt8 &a, int64_t row, int64_t rows, int16_t *out) {
  const int64_t steps = a.depth / kDepth;
  const __m256i middle = _mm256_set1_epi16(128);
  for (int64_t i = 0; i < rows; ++i) {
    const uint8_t *x = a.x + (row + i) * a.depth;
    int16_t *to = out + i * kDepth;
    const int64_t stride = rows * kDepth;
    int64_t k = 0;
    for (; k + 4 <= steps; k += 4) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x + k * kDepth));
      const __m256i wide = _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), middle);
      const __m128i low = _mm256_castsi256_si128(wide), high = _mm256_extracti128_si256(wide, 1);
      _mm_storel_epi64(reinterpret_cast<__m128i *>(to + k * stride), low);
      _mm_storeh_pd(reinterpret_cast<double *>(to + (k + 1) * stride), _mm_castsi128_pd(low));
      _mm_storel_epi64(reinterpret_cast<__m128i *>(to + (k + 2) * stride), high);
      _mm_storeh_pd(reinterpret_cast<double *>(to + (k + 3) * stride), _mm_castsi128_pd(high));
    }
    for (; k < steps; ++k)
      for (int d = 0; d < kDepth; ++d)
        to[k * stride + d] = static_cast<int16_t>(x[k * kDepth + d] - 128);
  }
}

// Widens 8 columns of `steps` steps.
void widen_weights(const int8_t *w, int64_t steps, int16_t *out) {
  for (int64_t k = 0; k < steps; ++k, w += kStepBytes, out += kWideStep) {
    const __m128i *from = reinterpret_cast<const __m128i *>(w);
    __m256i *to = reinterpret_cast<__m256i *>(out);
    _mm256_store_si256(to, _mm256_cvtepi8_epi16(_mm_loadu_si128(from)));
    _mm256_store_si256(to + 1, _mm256_cvtepi8_epi16(_mm_loadu_si128(from + 1)));
  }
}

inline __m256i four_inputs(const int16_t *x) {
  int64_t four;
  memcpy(&four, x, sizeof four);
  return _mm256_set1_epi64x(four);
}

// By hand because GCC 12 moves the instructions of the intrinsics apart, and then 16 registers are too few.
inline void add_products(__m256i &sum, __m256i inputs, __m256i weights) {
  __m256i products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sum), "=&x"(products)
      : "x"(inputs), "x"(weights));
}

// Eight columns of a step: widened before, or as they lie in their panel.
struct Wide {
  using Number = int16_t;
  static constexpr int64_t kStep = kWideStep;
  static __m256i load(const int16_t *w) { return _mm256_load_si256(reinterpret_cast<const __m256i *>(w)); }
  static void fetch(const int16_t *) {}
};

struct Packed {
  using Number = int8_t;
  static constexpr int64_t kStep = kStepBytes;
  static __m256i load(const int8_t *w) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w)));
  }
  // What is read some steps on; weights come from memory once for all rows.
  static void fetch(const int8_t *w) {
    _mm_prefetch(reinterpret_cast<const char *>(w) + 24 * kStepBytes, _MM_HINT_T0);
  }
};

// One step: even and odd (+)= x[rows, 4] * w[8, 4].
template <class Weights, int rows>
inline void multiply_step(const int16_t *x, const typename Weights::Number *w, __m256i *even,
                          __m256i *odd) {
  const __m256i first = Weights::load(w), second = Weights::load(w + kWideStep / 2);
  Weights::fetch(w);
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    const __m256i inputs = four_inputs(x + i * kDepth);
    add_products(even[i], inputs, first);
    add_products(odd[i], inputs, second);
  }
}

// sums[rows, 8 of a panel] (+)= x[steps, rows, 4] * w[steps, 8, 4].
template <class Weights, int rows>
void multiply_stretch(const int16_t *x, const typename Weights::Number *w, int64_t steps,
                      int32_t *sums, bool add) {
  __m256i even[rows], odd[rows];  // columns 0 to 3, and 4 to 7
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) even[i] = odd[i] = _mm256_setzero_si256();
  int64_t k = 0;
  // Two at a time: the loop's own instructions cost a tenth otherwise.
  for (; k + 2 <= steps; k += 2, x += 2 * rows * kDepth, w += 2 * Weights::kStep) {
    multiply_step<Weights, rows>(x, w, even, odd);
    multiply_step<Weights, rows>(x + rows * kDepth, w + Weights::kStep, even, odd);
  }
  if (k < steps) multiply_step<Weights, rows>(x, w, even, odd);
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    // [0 1 4 5 | 2 3 6 7] to columns in order.
    __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(even[i], odd[i]), 0xD8);
    __m256i *to = reinterpret_cast<__m256i *>(sums + i * kPanel);
    if (add) sum = _mm256_add_epi32(sum, _mm256_loadu_si256(to));
    _mm256_storeu_si256(to, sum);
  }
}

template <class Weights>
void multiply_tile(const int16_t *x, int64_t rows, const typename Weights::Number *w, int64_t steps,
                   int32_t *sums, bool add) {
  switch (rows) {
    case 6: multiply_stretch<Weights, 6>(x, w, steps, sums, add); break;
    case 5: multiply_stretch<Weights, 5>(x, w, steps, sums, add); break;
    case 4: multiply_stretch<Weights, 4>(x, w, steps, sums, add); break;
    case 3: multiply_stretch<Weights, 3>(x, w, steps, sums, add); break;
    case 2: multiply_stretch<Weights, 2>(x, w, steps, sums, add); break;
    default: multiply_stretch<Weights, 1>(x, w, steps, sums, add);
  }
}

// Tiles `first` to `last` - 1 of a panel.
//   x: widened rows of all tiles.
//   weights: room for a stretch of kGroupsAtOnce groups of columns.
//   sums: room for the rows of these tiles, [rows, 64].
void multiply_tiles(const LinearInt8 &a, const Tiling &tiling, int64_t first, int64_t last,
                    int64_t panel, const int16_t *x, int16_t *weights, int32_t *sums) {
  const int64_t steps = a.depth / kDepth, begin = tiling.first_row(first);
  const int8_t *packed = a.weights + panel * kPanel * a.depth;
  const bool widens = last - first > kFewTiles;
  for (int64_t step = 0; step < steps; step += kStretchSteps) {
    const int64_t count = least(kStretchSteps, steps - step);
    for (int group = 0; group < kGroups; group += kGroupsAtOnce) {
      const int8_t *from = packed + step * kStepBytes + group * kWideStep;
      for (int i = 0; widens && i < kGroupsAtOnce; ++i)
        widen_weights(from + i * kWideStep, count, weights + i * kStretchSteps * kWideStep);
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = tiling.first_row(tile), rows = tiling.first_row(tile + 1) - row;
        const int16_t *inputs = x + row * a.depth + step * rows * kDepth;
        int32_t *to = sums + (row - begin) * kPanel + group * kGroup;
        for (int i = 0; i < kGroupsAtOnce; ++i) {
          if (widens) {
            multiply_tile<Wide>(inputs, rows, weights + i * kStretchSteps * kWideStep, count,
                                to + i * kGroup, step > 0);
          } else {
            multiply_tile<Packed>(inputs, rows, from + i * kWideStep, count, to + i * kGroup, step > 0);
          }
        }
      }
    }
  }
}

void finish_tiles(const LinearInt8 &a, int64_t first, int64_t last, int64_t panel,
                  const int32_t *sums) {
  for (int64_t row = first; row < last; ++row, sums += kPanel) finish_sums(a, sums, row, panel);
}

// Rows `begin` to `begin` + `rows` - 1.
void multiply_rows(const LinearInt8 &a, int64_t begin, int64_t rows, int16_t *wide,
                   const Scratch &scratch) {
  const int64_t columns = a.gated ? kPanel / 2 : kPanel;
  const int64_t panels = (a.columns + columns - 1) / columns;
  const Tiling tiling(rows);
  LinearInt8 part = a;
  part.x += begin * a.depth;
  parallel_for(a.threads, tiling.tiles, [&](int64_t tile, int) {
    const int64_t row = tiling.first_row(tile);
    widen_tile(part, row, tiling.first_row(tile + 1) - row, wide + row * a.depth);
  });
  // A panel is work for one thread, unless there are too few of them for all to end together.
  const int64_t splits = least((kItemsPerThread * a.threads + panels - 1) / panels, tiling.tiles);
  parallel_for(a.threads, panels * splits, [&](int64_t item, int thread) {
    const int64_t panel = item / splits, split = item % splits;
    const int64_t first = tiling.tiles * split / splits;
    const int64_t last = tiling.tiles * (split + 1) / splits;
    int16_t *weights = reinterpret_cast<int16_t *>(scratch.of(thread));
    int32_t *sums = reinterpret_cast<int32_t *>(weights + kGroupsAtOnce * kStretchSteps * kWideStep);
    multiply_tiles(a, tiling, first, last, panel, wide, weights, sums);
    finish_tiles(a, begin + tiling.first_row(first), begin + tiling.first_row(last), panel, sums);
  });
}

}  // namespace

Status linear_int8(const LinearInt8 &a) {
  const int64_t at_once = least(a.rows, kRowsAtOnce);
  const Scratch wide(1, at_once * a.depth / 2 + 1);
  const Scratch scratch(a.threads, kGroupsAtOnce * kStretchSteps * kWideStep / 2 + at_once * kPanel);
  if (!wide || !scratch) return kNoMemory;
  for (int64_t row = 0; row < a.rows; row += kRowsAtOnce)
    multiply_rows(a, row, least(kRowsAtOnce, a.rows - row),
                  reinterpret_cast<int16_t *>(wide.of(0)), scratch);
  return kDone;
}

}  // namespace trine::TRINE_ISA
