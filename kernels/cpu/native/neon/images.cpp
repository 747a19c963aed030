// Images: the published 8-bit bicubic resize, and patches of the vision tower.
#include "kernels.h"

#include "../generic/images.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int kChannels = 3;     // of those images that are filtered four inputs at once
constexpr int kTapsAtOnce = 4;   // which lie in 12 bytes; 16 are loaded
constexpr int64_t kVectorBytes = 16;

// One output of three channels: the sum of weights[t] times the three bytes of input t.
inline int32x4_t filter_three(const uint8_t *from, const int16_t *weights, int64_t taps, int32x4_t sum) {
  // Each input's three bytes, and a zero behind them.
  static const uint8_t order[kVectorBytes] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
  const uint8x16_t spread = vld1q_u8(order);
  for (int64_t t = 0; t < taps; t += kTapsAtOnce, from += kTapsAtOnce * kChannels) {
    const uint8x16_t bytes = vqtbl1q_u8(vld1q_u8(from), spread);
    const int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
    const int16x8_t second = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
    // Taps come in pairs.
    sum = vmlal_n_s16(sum, vget_low_s16(first), weights[t]);
    sum = vmlal_n_s16(sum, vget_high_s16(first), weights[t + 1]);
    if (t + 2 >= taps) break;
    sum = vmlal_n_s16(sum, vget_low_s16(second), weights[t + 2]);
    sum = vmlal_n_s16(sum, vget_high_s16(second), weights[t + 3]);
  }
  return sum;
}

struct RowFilter {
  const Resize &a;

  int64_t padding() const { return (a.columns.taps + kTapsAtOnce) * a.channels + kVectorBytes; }

  void rows(const uint8_t *rows, int64_t stride, int count, uint8_t *const *out) const {
    for (int r = 0; r < count; ++r) {
      if (a.channels == kChannels) {
        row_of_three(rows + r * stride, out[r]);
      } else {
        filter_row(rows + r * stride, a.columns, a.channels, out[r]);
      }
    }
  }

  void row_of_three(const uint8_t *row, uint8_t *out) const {
    const Axis &axis = a.columns;
    const int precision = static_cast<int>(axis.precision);
    const int32x4_t half = vdupq_n_s32(precision > 0 ? 1 << (precision - 1) : 0);
    const int32x4_t shift = vdupq_n_s32(-precision);
    for (int64_t o = 0; o < axis.outputs; ++o) {
      const int32x4_t sum = vshlq_s32(filter_three(row + axis.starts[o] * kChannels,
                                                   axis.weights + o * axis.taps, axis.taps, half),
                                      shift);
      // Both narrowings saturate, which clamps to 0..255.
      const int16x4_t words = vqmovn_s32(sum);
      uint8_t bytes[8];
      vst1_u8(bytes, vqmovun_s16(vcombine_s16(words, words)));
      memcpy(out + o * kChannels, bytes, kChannels);
    }
  }
};

// One row of results from the rows `from[t]`, each `width` bytes.
void filter_column(const uint8_t *const *from, const int16_t *weights, int64_t taps, int precision,
                   int64_t width, uint8_t *out) {
  const int32x4_t half = vdupq_n_s32(precision > 0 ? 1 << (precision - 1) : 0);
  const int32x4_t shift = vdupq_n_s32(-precision);
  for (int64_t i = 0; i < width; i += kVectorBytes) {
    const bool whole = width - i >= kVectorBytes;
    int32x4_t sums[4] = {half, half, half, half};
    for (int64_t t = 0; t < taps; ++t) {
      const uint8x16_t bytes = whole ? vld1q_u8(from[t] + i) : load_bytes(from[t] + i, width - i);
      const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
      const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
      sums[0] = vmlal_n_s16(sums[0], vget_low_s16(low), weights[t]);
      sums[1] = vmlal_n_s16(sums[1], vget_high_s16(low), weights[t]);
      sums[2] = vmlal_n_s16(sums[2], vget_low_s16(high), weights[t]);
      sums[3] = vmlal_n_s16(sums[3], vget_high_s16(high), weights[t]);
    }
    int16x4_t words[4];
    // Both narrowings saturate, which clamps to 0..255.
    for (int v = 0; v < 4; ++v) words[v] = vqmovn_s32(vshlq_s32(sums[v], shift));
    const uint8x16_t bytes = vcombine_u8(vqmovun_s16(vcombine_s16(words[0], words[1])),
                                         vqmovun_s16(vcombine_s16(words[2], words[3])));
    if (whole) {
      vst1q_u8(out + i, bytes);
    } else {
      uint8_t all[kVectorBytes];
      vst1q_u8(all, bytes);
      memcpy(out + i, all, static_cast<size_t>(width - i));
    }
  }
}

struct Deinterleaved {
  uint8x16x3_t load(const uint8_t *from, int64_t count) const {
    constexpr int64_t kBytes = 3 * kPixels;
    if (count >= kBytes) return vld3q_u8(from);
    uint8_t all[kBytes] = {};
    memcpy(all, from, static_cast<size_t>(count));
    return vld3q_u8(all);
  }

  uint8x16_t channel(const uint8x16x3_t &loaded, int number) const { return loaded.val[number]; }
};

}  // namespace

Status resize(const Resize &a) { return resize_with(a, RowFilter{a}, filter_column); }
Status patchify(const Patchify &a) { return patchify_with(a, Deinterleaved()); }

}  // namespace trine::TRINE_ISA
