// Images: the published 8-bit bicubic resize, and patches of the vision tower.
#include "kernels.h"

#include "deinterleave.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int kChannels = 3;        // of those images that are filtered four inputs at once
constexpr int64_t kTapsAtOnce = 4;  // which lie in 12 bytes; 16 are loaded

// How the rows are filtered. The value of output o and channel c is the sum of weights[o][t] times byte
// (starts[o] + t) * channels + c. Of three channels four inputs are shuffled so that vpmaddwd adds two
// pairs of them: [c0 c0' c1 c1' c2 c2' 0 0] of inputs 0 and 1, the same of 2 and 3.
class RowFilter {
 public:
  explicit RowFilter(const Resize &a)
      : a_(a),
        steps_(a.resize_columns ? (a.columns.taps + kTapsAtOnce - 1) / kTapsAtOnce : 0),
        weights_(1, (a.resize_columns ? a.columns.outputs : 0) * steps_ * kLanes) {
    if (weights_ && steps_ > 0) prepare();
  }

  explicit operator bool() const { return static_cast<bool>(weights_); }
  int64_t padding() const { return (a_.columns.taps + kTapsAtOnce) * a_.channels + 16; }

  void rows(const uint8_t *rows, int64_t stride, int count, uint8_t *const *out) const {
    for (int r = 0; r < count; ++r) {
      if (a_.channels == kChannels) {
        row_of_three(rows + r * stride, out[r]);
      } else {
        filter_row(rows + r * stride, a_.columns, a_.channels, out[r]);
      }
    }
  }

 private:
  void prepare() const;
  void row_of_three(const uint8_t *row, uint8_t *out) const;

  const Resize &a_;
  const int64_t steps_;
  const Scratch weights_;  // int16 [outputs, steps, 16]: pair 0 four times, then pair 1
};

void RowFilter::prepare() const {
  const Axis &axis = a_.columns;
  int16_t *to = reinterpret_cast<int16_t *>(weights_.of(0));
  for (int64_t o = 0; o < axis.outputs; ++o)
    for (int64_t k = 0; k < steps_; ++k)
      for (int lane = 0; lane < 16; ++lane, ++to) {
        const int64_t tap = k * kTapsAtOnce + lane / 8 * 2 + lane % 2;
        *to = tap < axis.taps ? axis.weights[o * axis.taps + tap] : static_cast<int16_t>(0);
      }
}

void RowFilter::row_of_three(const uint8_t *row, uint8_t *out) const {
  const Axis &axis = a_.columns;
  const int precision = static_cast<int>(axis.precision);
  const __m128i half = _mm_set1_epi32(precision > 0 ? 1 << (precision - 1) : 0);
  const __m128i shift = _mm_cvtsi32_si128(precision);
  const __m256i order = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const int16_t *w = reinterpret_cast<const int16_t *>(weights_.of(0));
  for (int64_t o = 0; o < axis.outputs; ++o) {
    const uint8_t *from = row + axis.starts[o] * kChannels;
    __m256i sums = _mm256_setzero_si256();
    for (int64_t k = 0; k < steps_; ++k, from += kTapsAtOnce * kChannels, w += 16) {
      const __m256i both = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
      sums = _mm256_add_epi32(
          sums, _mm256_madd_epi16(_mm256_shuffle_epi8(both, order),
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w))));
    }
    const __m128i sum = _mm_add_epi32(
        half, _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
    // Both packings saturate, which clamps to 0..255.
    const __m128i words = _mm_packs_epi32(_mm_sra_epi32(sum, shift), _mm_setzero_si128());
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(out + o * kChannels, &bytes, kChannels);
  }
}

// One row of results from the rows `from[t]`, each `width` bytes.
void filter_column(const uint8_t *const *from, const int16_t *weights, int64_t taps, int precision,
                   int64_t width, uint8_t *out) {
  const __m128i zero = _mm_setzero_si128();
  const __m256i half = _mm256_set1_epi32(precision > 0 ? 1 << (precision - 1) : 0);
  const __m128i shift = _mm_cvtsi32_si128(precision);
  for (int64_t i = 0; i < width; i += 16) {
    __m256i low = half, high = half;  // 16 bytes: values 0 to 3 and 8 to 11, 4 to 7 and 12 to 15
    for (int64_t t = 0; t < taps; t += 2) {
      int32_t pair;
      memcpy(&pair, weights + t, sizeof(pair));
      const __m256i w = _mm256_set1_epi32(pair);
      const __m128i x = load_bytes(from[t] + i, width - i);
      const __m128i y = load_bytes(from[t + 1] + i, width - i);
      const __m128i first = _mm_unpacklo_epi8(x, y), second = _mm_unpackhi_epi8(x, y);
      low = _mm256_add_epi32(low, _mm256_madd_epi16(
          _mm256_setr_m128i(_mm_unpacklo_epi8(first, zero), _mm_unpacklo_epi8(second, zero)), w));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(
          _mm256_setr_m128i(_mm_unpackhi_epi8(first, zero), _mm_unpackhi_epi8(second, zero)), w));
    }
    // Both packings saturate, which clamps to 0..255.
    const __m256i words = _mm256_packs_epi32(_mm256_sra_epi32(low, shift), _mm256_sra_epi32(high, shift));
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (width - i >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i), bytes);
    } else {
      alignas(16) uint8_t all[16];
      _mm_store_si128(reinterpret_cast<__m128i *>(all), bytes);
      memcpy(out + i, all, static_cast<size_t>(width - i));
    }
  }
}

}  // namespace

Status resize(const Resize &a) { return resize_by<RowFilter>(a, filter_column); }
Status patchify(const Patchify &a) { return patchify_with(a, Deinterleaved()); }

}  // namespace trine::TRINE_ISA
