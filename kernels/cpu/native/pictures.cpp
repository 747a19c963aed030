// Pictures: the published 8-bit bicubic resize, and patches of the vision tower.
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace trine {
namespace {

constexpr int kRowBlock = 4;        // rows that share each load of weights
constexpr int64_t kVectorBytes = 64;
constexpr uint64_t kEvenBytes = 0x5555555555555555ull;

// One axis of the filter: output i is the sum of weights[i][t] * input[starts[i] + t].
struct Axis {
  const int64_t *starts;   // [outputs], not decreasing
  const int16_t *weights;  // [outputs, taps]; 0 behind an output's last tap
  int64_t inputs;
  int64_t outputs;
  int64_t taps;  // even
  int64_t precision;  // fraction bits of the weights
};

struct Resize {
  const uint8_t *in;  // [rows.inputs, columns.inputs, channels]
  int64_t in_stride;  // bytes from row to row
  uint8_t *out;       // [rows.outputs, columns.outputs, channels], packed
  int64_t channels;
  Axis columns;
  Axis rows;
  int32_t resize_columns;  // whether each axis changes at all
  int32_t resize_rows;
  int32_t threads;
  int32_t reserved;
};

// Sixteen neighbouring values of a row of results, and where their inputs lie. Input pair k of a value
// is k * 2 * channels bytes behind its first, so one index serves all pairs.
struct Group {
  int64_t base;         // first byte any of the values needs for its first pair
  int32_t span;         // bytes from there to the last that a pair needs
  uint8_t index[64];    // of the two inputs of each value's pair, from `base`; odd bytes unused
  int32_t offset[16];   // of the first of them
};

// How the rows are filtered: the groups, and for each of them and each pair its sixteen weight pairs.
struct RowFilter {
  std::vector<Group> groups;
  std::vector<int16_t> weights;  // [groups, pairs, 16, 2]
  int64_t pairs;
  int64_t step;     // bytes between pairs
  int64_t padding;  // bytes that loads may reach beyond a row
};

RowFilter prepare_row_filter(const Resize &a) {
  const Axis &axis = a.columns;
  const int64_t values = axis.outputs * a.channels, channels = a.channels;
  const int64_t count = (values + kLanes - 1) / kLanes;
  RowFilter filter;
  filter.pairs = axis.taps / 2;
  filter.step = 2 * channels;
  filter.groups.resize(count);
  filter.weights.assign(count * filter.pairs * 2 * kLanes, 0);
  filter.padding = axis.taps * channels + 2 * kVectorBytes;
  for (int64_t g = 0; g < count; ++g) {
    Group &group = filter.groups[g];
    int64_t begins[kLanes], least = INT64_MAX, last = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      // Lanes behind the last value repeat it; they are not stored.
      const int64_t value = std::min(g * kLanes + lane, values - 1);
      const int64_t output = value / channels;
      begins[lane] = axis.starts[output] * channels + value % channels;
      least = std::min(least, begins[lane]);
      last = std::max(last, begins[lane] + channels);
      for (int64_t k = 0; k < filter.pairs; ++k)
        std::memcpy(&filter.weights[((g * filter.pairs + k) * kLanes + lane) * 2],
                    axis.weights + output * axis.taps + 2 * k, 2 * sizeof(int16_t));
    }
    group.base = least;
    group.span = static_cast<int32_t>(last - least + 1);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t offset = begins[lane] - least;
      group.offset[lane] = static_cast<int32_t>(offset);
      std::memset(group.index + 4 * lane, 0, 4);
      group.index[4 * lane] = static_cast<uint8_t>(offset);
      group.index[4 * lane + 2] = static_cast<uint8_t>(offset + channels);
    }
  }
  return filter;
}

inline __m128i to_bytes(__m512i sums, int precision) {
  const __m512i whole = _mm512_sra_epi32(sums, _mm_cvtsi32_si128(precision));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
}

enum Reach { kOneVector, kTwoVectors, kAnywhere };

// The pairs of 16 values as 16 pairs of int16.
template <Reach reach>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi"))) inline __m512i
load_pairs(const uint8_t *from, __m512i index) {
  if constexpr (reach == kOneVector) {
    return _mm512_maskz_permutexvar_epi8(kEvenBytes, index, _mm512_loadu_si512(from));
  } else {
    return _mm512_maskz_permutex2var_epi8(kEvenBytes, _mm512_loadu_si512(from), index,
                                          _mm512_loadu_si512(from + kVectorBytes));
  }
}

template <Reach reach>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi"))) inline void
filter_group(const Group &group, const int16_t *weights, int64_t pairs, int64_t step,
             const uint8_t *rows, int64_t stride, __m512i *sums) {
  const __m512i index = _mm512_loadu_si512(group.index);
  const uint8_t *from = rows + group.base;
  for (int64_t k = 0; k < pairs; ++k, from += step) {
    const __m512i w = _mm512_loadu_si512(weights + k * 2 * kLanes);
    for (int r = 0; r < kRowBlock; ++r)
      sums[r] = _mm512_dpwssd_epi32(sums[r], load_pairs<reach>(from + r * stride, index), w);
  }
}

// Any reach, and no byte permutation: gathers four bytes for each input, of which the first counts.
inline void gather_group(const Group &group, const int16_t *weights, int64_t pairs, int64_t step,
                         int64_t channels, const uint8_t *rows, int64_t stride, __m512i *sums) {
  const __m512i offset = _mm512_loadu_si512(group.offset);
  const __m512i low = _mm512_set1_epi32(0xFF);
  const uint8_t *from = rows + group.base;
  for (int64_t k = 0; k < pairs; ++k, from += step) {
    const __m512i w = _mm512_loadu_si512(weights + k * 2 * kLanes);
    for (int r = 0; r < kRowBlock; ++r) {
      const uint8_t *row = from + r * stride;
      const __m512i first = _mm512_and_si512(_mm512_i32gather_epi32(offset, row, 1), low);
      const __m512i second =
          _mm512_and_si512(_mm512_i32gather_epi32(offset, row + channels, 1), low);
      sums[r] = _mm512_dpwssd_epi32(
          sums[r], _mm512_or_si512(first, _mm512_slli_epi32(second, 16)), w);
    }
  }
}

// Filters `count` rows (at most kRowBlock) that lie in `rows`, padded, into `out[r]`.
void filter_rows(const RowFilter &filter, const Resize &a, bool permutes, const uint8_t *rows,
                 int64_t stride, int count, uint8_t *const *out) {
  const int64_t values = a.columns.outputs * a.channels;
  const int precision = static_cast<int>(a.columns.precision);
  const __m512i half = _mm512_set1_epi32(precision > 0 ? 1 << (precision - 1) : 0);
  for (size_t g = 0; g < filter.groups.size(); ++g) {
    const Group &group = filter.groups[g];
    const int16_t *weights = filter.weights.data() + g * filter.pairs * 2 * kLanes;
    __m512i sums[kRowBlock] = {half, half, half, half};
    if (permutes && group.span <= kVectorBytes)
      filter_group<kOneVector>(group, weights, filter.pairs, filter.step, rows, stride, sums);
    else if (permutes && group.span <= 2 * kVectorBytes)
      filter_group<kTwoVectors>(group, weights, filter.pairs, filter.step, rows, stride, sums);
    else
      gather_group(group, weights, filter.pairs, filter.step, a.channels, rows, stride, sums);
    const __mmask16 m = lane_mask(values - static_cast<int64_t>(g) * kLanes);
    for (int r = 0; r < count; ++r)
      _mm_mask_storeu_epi8(out[r] + g * kLanes, m, to_bytes(sums[r], precision));
  }
}

// One row of results from the rows `from[t]`, each `width` bytes.
void filter_column(const uint8_t *const *from, const int16_t *weights, int64_t taps, int precision,
                   int64_t width, uint8_t *out) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i half = _mm512_set1_epi32(precision > 0 ? 1 << (precision - 1) : 0);
  const __m128i shift = _mm_cvtsi32_si128(precision);
  for (int64_t i = 0; i < width; i += kVectorBytes) {
    const int64_t left = width - i;
    const __mmask64 m = left >= kVectorBytes ? ~0ull : (1ull << left) - 1;
    __m512i s0 = half, s1 = half, s2 = half, s3 = half;
    for (int64_t t = 0; t < taps; t += 2) {
      int32_t pair;
      std::memcpy(&pair, weights + t, sizeof(pair));
      const __m512i w = _mm512_set1_epi32(pair);
      const __m512i x = _mm512_maskz_loadu_epi8(m, from[t] + i);
      const __m512i y = _mm512_maskz_loadu_epi8(m, from[t + 1] + i);
      const __m512i low = _mm512_unpacklo_epi8(x, y), high = _mm512_unpackhi_epi8(x, y);
      s0 = _mm512_dpwssd_epi32(s0, _mm512_unpacklo_epi8(low, zero), w);
      s1 = _mm512_dpwssd_epi32(s1, _mm512_unpackhi_epi8(low, zero), w);
      s2 = _mm512_dpwssd_epi32(s2, _mm512_unpacklo_epi8(high, zero), w);
      s3 = _mm512_dpwssd_epi32(s3, _mm512_unpackhi_epi8(high, zero), w);
    }
    // Packing undoes the order that unpacking made. Both saturate, which clamps to 0..255.
    const __m512i a = _mm512_packs_epi32(_mm512_sra_epi32(s0, shift), _mm512_sra_epi32(s1, shift));
    const __m512i b = _mm512_packs_epi32(_mm512_sra_epi32(s2, shift), _mm512_sra_epi32(s3, shift));
    _mm512_mask_storeu_epi8(out + i, m, _mm512_packus_epi16(a, b));
  }
}

// Rows [first, last) of the result. Rows of the picture are filtered along their width as the columns'
// filter gets to them, each once, into a ring that stays in the cache.
void resize_band(const Resize &a, const RowFilter &filter, bool permutes, int64_t first,
                 int64_t last) {
  const int64_t in_width = a.columns.inputs * a.channels;
  const int64_t out_width = a.columns.outputs * a.channels;
  const int64_t padded = in_width + filter.padding;
  std::vector<uint8_t> block(a.resize_columns ? kRowBlock * padded : 0);
  const auto widths_filtered = [&](int64_t row, int count, uint8_t *const *out) {
    for (int r = 0; r < count; ++r)
      std::memcpy(block.data() + r * padded, a.in + (row + r) * a.in_stride, in_width);
    filter_rows(filter, a, permutes, block.data(), padded, count, out);
  };
  if (!a.resize_rows) {
    for (int64_t row = first; row < last; row += kRowBlock) {
      const int count = static_cast<int>(std::min<int64_t>(kRowBlock, last - row));
      uint8_t *out[kRowBlock];
      for (int r = 0; r < count; ++r) out[r] = a.out + (row + r) * out_width;
      widths_filtered(row, count, out);
    }
    return;
  }
  int64_t slots = 1;
  while (slots < a.rows.taps + kRowBlock) slots *= 2;
  const int64_t slot_bytes = (out_width + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  std::vector<uint8_t> ring(a.resize_columns ? slots * slot_bytes : 0);
  std::vector<const uint8_t *> from(a.rows.taps);
  int64_t ready = a.rows.starts[first];
  for (int64_t row = first; row < last; ++row) {
    const int64_t start = a.rows.starts[row];
    const int64_t end = std::min(start + a.rows.taps, a.rows.inputs);
    while (a.resize_columns && ready < end) {
      const int count = static_cast<int>(std::min<int64_t>(kRowBlock, a.rows.inputs - ready));
      uint8_t *out[kRowBlock];
      for (int r = 0; r < count; ++r)
        out[r] = ring.data() + ((ready + r) & (slots - 1)) * slot_bytes;
      widths_filtered(ready, count, out);
      ready += count;
    }
    for (int64_t t = 0; t < a.rows.taps; ++t) {
      const int64_t tap = std::min(start + t, end - 1);  // weights are 0 behind the last
      from[t] = a.resize_columns ? ring.data() + (tap & (slots - 1)) * slot_bytes
                                 : a.in + tap * a.in_stride;
    }
    filter_column(from.data(), a.rows.weights + row * a.rows.taps, a.rows.taps,
                  static_cast<int>(a.rows.precision), out_width, a.out + row * out_width);
  }
}

struct Patchify {
  const uint8_t *pixels;  // [height, width, 3]
  const float *mean;      // [3]
  const float *deviation;  // [3]
  const int64_t *order;   // [tokens], numbers of image tokens in raster order
  float *out;             // [tokens * merge^2, 3 * frames * patch^2]
  int64_t width;
  int64_t tokens;
  int32_t patch;
  int32_t merge;
  int32_t frames;
  int32_t threads;
};

// Bytes of channel c among 16 pixels of three bytes, from each of the three vectors that hold them.
struct Deinterleave {
  __m128i shuffle[3][3];
  Deinterleave() {
    for (int channel = 0; channel < 3; ++channel)
      for (int part = 0; part < 3; ++part) {
        alignas(16) int8_t bytes[16];
        for (int pixel = 0; pixel < 16; ++pixel) {
          const int place = 3 * pixel + channel - 16 * part;
          bytes[pixel] = static_cast<int8_t>(place >= 0 && place < 16 ? place : -1);
        }
        shuffle[channel][part] = _mm_load_si128(reinterpret_cast<const __m128i *>(bytes));
      }
  }
};

inline __m128i load_bytes(const uint8_t *from, int64_t count) {
  return _mm_maskz_loadu_epi8(lane_mask(count), from);
}

void cut_patch(const Patchify &a, const Deinterleave &d, const uint8_t *corner, float *out) {
  const int64_t size = a.patch, area = size * size;
  for (int64_t row = 0; row < size; ++row)
    for (int64_t column = 0; column < size; column += kLanes) {
      const uint8_t *from = corner + (row * a.width + column) * 3;
      const int64_t bytes = 3 * std::min<int64_t>(kLanes, size - column);
      const __m128i part[3] = {load_bytes(from, bytes), load_bytes(from + 16, bytes - 16),
                               load_bytes(from + 32, bytes - 32)};
      const __mmask16 m = lane_mask(size - column);
      for (int channel = 0; channel < 3; ++channel) {
        const __m128i *shuffle = d.shuffle[channel];
        const __m128i levels = _mm_or_si128(
            _mm_or_si128(_mm_shuffle_epi8(part[0], shuffle[0]), _mm_shuffle_epi8(part[1], shuffle[1])),
            _mm_shuffle_epi8(part[2], shuffle[2]));
        const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(levels));
        // Divided, not multiplied by the inverse: equal to the published values to the last bit.
        const __m512 value = _mm512_div_ps(_mm512_sub_ps(x, _mm512_set1_ps(a.mean[channel])),
                                           _mm512_set1_ps(a.deviation[channel]));
        float *to = out + channel * a.frames * area + row * size + column;
        for (int32_t frame = 0; frame < a.frames; ++frame)
          _mm512_mask_storeu_ps(to + frame * area, m, value);
      }
    }
}

}  // namespace

TRINE_API void trine_resize(const Resize *arguments) {
  const Resize &a = *arguments;
  __builtin_cpu_init();
  const bool permutes = __builtin_cpu_supports("avx512vbmi");
  const RowFilter filter = a.resize_columns ? prepare_row_filter(a) : RowFilter{};
  const int64_t rows = a.resize_rows ? a.rows.outputs : a.rows.inputs;
  const int64_t bands = std::min<int64_t>(a.threads, rows);
  parallel_for(a.threads, bands, [&](int64_t band, int) {
    resize_band(a, filter, permutes, rows * band / bands, rows * (band + 1) / bands);
  });
}

TRINE_API void trine_patchify(const Patchify *arguments) {
  const Patchify &a = *arguments;
  const Deinterleave deinterleave;
  const int64_t side = a.patch * a.merge, columns = a.width / side;
  const int64_t features = 3 * a.frames * a.patch * a.patch;
  parallel_rows(a.threads, a.tokens, [&](int64_t token, int) {
    const int64_t row = a.order[token] / columns * side, column = a.order[token] % columns * side;
    float *out = a.out + token * a.merge * a.merge * features;
    for (int64_t i = 0; i < a.merge; ++i)
      for (int64_t j = 0; j < a.merge; ++j, out += features)
        cut_patch(a, deinterleave,
                  a.pixels + ((row + i * a.patch) * a.width + column + j * a.patch) * 3, out);
  });
}

}  // namespace trine
