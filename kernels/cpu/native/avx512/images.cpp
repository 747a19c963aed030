// Images: the published 8-bit bicubic resize, and patches of the vision tower.
#include "kernels.h"

#include "../common/features.h"
#include "../avx2/deinterleave.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int64_t kVectorBytes = 64;
constexpr uint64_t kEvenBytes = 0x5555555555555555ull;

// Sixteen neighbouring values of a row of results, and where their inputs lie. Input pair k of a value
// is k * 2 * channels bytes behind its first, so one index serves all pairs.
struct Group {
  int64_t base;         // first byte any of the values needs for its first pair
  int32_t span;         // bytes from there to the last that a pair needs
  uint8_t index[64];    // of the two inputs of each value's pair, from `base`; odd bytes unused
  int32_t offset[16];   // of the first of them
};

// How the rows are filtered: the groups, and for each of them and each pair its sixteen weight pairs.
class RowFilter {
 public:
  explicit RowFilter(const Resize &a)
      : a_(a),
        permutes_(find_features().avx512_vbmi),
        count_(a.resize_columns ? (a.columns.outputs * a.channels + kLanes - 1) / kLanes : 0),
        pairs_(a.columns.taps / 2),
        step_(2 * a.channels),
        groups_memory_(1, count_ * static_cast<int64_t>(sizeof(Group) / sizeof(float))),
        weights_memory_(1, count_ * pairs_ * kLanes) {
    if (*this) prepare();
  }

  explicit operator bool() const { return groups_memory_ && weights_memory_; }

  // Bytes that loads may reach beyond a row.
  int64_t padding() const { return a_.columns.taps * a_.channels + 2 * kVectorBytes; }

  void rows(const uint8_t *rows, int64_t stride, int count, uint8_t *const *out) const;

 private:
  void prepare();
  Group *groups() const { return reinterpret_cast<Group *>(groups_memory_.of(0)); }
  int16_t *weights() const { return reinterpret_cast<int16_t *>(weights_memory_.of(0)); }

  const Resize &a_;
  const bool permutes_;
  const int64_t count_, pairs_;
  const int64_t step_;  // bytes between pairs
  const Scratch groups_memory_, weights_memory_;  // weights: [groups, pairs, 16, 2]
};

void RowFilter::prepare() {
  const Axis &axis = a_.columns;
  const int64_t values = axis.outputs * a_.channels, channels = a_.channels;
  for (int64_t g = 0; g < count_; ++g) {
    Group &group = groups()[g];
    int64_t begins[kLanes], first = INT64_MAX, last = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      // Lanes behind the last value repeat it; they are not stored.
      const int64_t value = least(g * kLanes + lane, values - 1);
      const int64_t output = value / channels;
      begins[lane] = axis.starts[output] * channels + value % channels;
      first = least(first, begins[lane]);
      last = most(last, begins[lane] + channels);
      for (int64_t k = 0; k < pairs_; ++k)
        memcpy(weights() + ((g * pairs_ + k) * kLanes + lane) * 2,
               axis.weights + output * axis.taps + 2 * k, 2 * sizeof(int16_t));
    }
    group.base = first;
    group.span = static_cast<int32_t>(last - first + 1);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t offset = begins[lane] - first;
      group.offset[lane] = static_cast<int32_t>(offset);
      memset(group.index + 4 * lane, 0, 4);
      group.index[4 * lane] = static_cast<uint8_t>(offset);
      group.index[4 * lane + 2] = static_cast<uint8_t>(offset + channels);
    }
  }
}

inline __m128i to_bytes(__m512i sums, int precision) {
  const __m512i whole = _mm512_sra_epi32(sums, _mm_cvtsi32_si128(precision));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
}

// vpdpwssd; by hand because GCC 12 copies the accumulator of the intrinsic to and fro.
inline __attribute__((always_inline)) void add_pairs(__m512i &sum, __m512i inputs, __m512i weights) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(weights));
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
  __m512i own[kRowBlock];  // which no load can be of, so they stay in registers
#pragma GCC unroll 4
  for (int r = 0; r < kRowBlock; ++r) own[r] = sums[r];
  for (int64_t k = 0; k < pairs; ++k, from += step) {
    const __m512i w = _mm512_loadu_si512(weights + k * 2 * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRowBlock; ++r)
      add_pairs(own[r], load_pairs<reach>(from + r * stride, index), w);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRowBlock; ++r) sums[r] = own[r];
}

// Any reach, and no byte permutation: gathers four bytes for each input, of which the first counts.
inline void gather_group(const Group &group, const int16_t *weights, int64_t pairs, int64_t step,
                         int64_t channels, const uint8_t *rows, int64_t stride, __m512i *sums) {
  const __m512i offset = _mm512_loadu_si512(group.offset);
  const __m512i low = _mm512_set1_epi32(0xFF);
  const uint8_t *from = rows + group.base;
  __m512i own[kRowBlock];
#pragma GCC unroll 4
  for (int r = 0; r < kRowBlock; ++r) own[r] = sums[r];
  for (int64_t k = 0; k < pairs; ++k, from += step) {
    const __m512i w = _mm512_loadu_si512(weights + k * 2 * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRowBlock; ++r) {
      const uint8_t *row = from + r * stride;
      const __m512i first = _mm512_and_si512(_mm512_i32gather_epi32(offset, row, 1), low);
      const __m512i second =
          _mm512_and_si512(_mm512_i32gather_epi32(offset, row + channels, 1), low);
      add_pairs(own[r], _mm512_or_si512(first, _mm512_slli_epi32(second, 16)), w);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRowBlock; ++r) sums[r] = own[r];
}

void RowFilter::rows(const uint8_t *rows, int64_t stride, int count, uint8_t *const *out) const {
  const int64_t values = a_.columns.outputs * a_.channels;
  const int precision = static_cast<int>(a_.columns.precision);
  const __m512i half = _mm512_set1_epi32(precision > 0 ? 1 << (precision - 1) : 0);
  for (int64_t g = 0; g < count_; ++g) {
    const Group &group = groups()[g];
    const int16_t *own = weights() + g * pairs_ * 2 * kLanes;
    __m512i sums[kRowBlock] = {half, half, half, half};
    if (permutes_ && group.span <= kVectorBytes)
      filter_group<kOneVector>(group, own, pairs_, step_, rows, stride, sums);
    else if (permutes_ && group.span <= 2 * kVectorBytes)
      filter_group<kTwoVectors>(group, own, pairs_, step_, rows, stride, sums);
    else
      gather_group(group, own, pairs_, step_, a_.channels, rows, stride, sums);
    const __mmask16 m = lane_mask(values - g * kLanes);
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
      memcpy(&pair, weights + t, sizeof(pair));
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

}  // namespace

Status resize(const Resize &a) { return resize_by<RowFilter>(a, filter_column); }
Status patchify(const Patchify &a) { return patchify_with(a, Deinterleaved()); }

}  // namespace trine::TRINE_ISA
