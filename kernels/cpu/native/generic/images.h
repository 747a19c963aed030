// Images: the way through the published 8-bit bicubic resize and through the patches of the vision tower.
// What one row, one column and one patch cost is each instruction set's own.
#pragma once

#include <string.h>

#include "../common/pool.h"
#include "../common/scratch.h"
#include "functions.h"

namespace trine::TRINE_ISA {

constexpr int kRowBlock = 4;  // rows that share each load of weights
constexpr int64_t kImageLine = 64;

// Memory of one band of rows.
struct Band {
  uint8_t *block;  // kRowBlock rows of the image, each with room for loads beyond its end
  uint8_t *ring;   // rows filtered along their width; a power of two of them
  const uint8_t **from;  // [taps]
  int64_t slots, slot_bytes;
};

// One row filtered along its width, in plain C++, of any number of channels.
inline void filter_row(const uint8_t *row, const Axis &axis, int64_t channels, uint8_t *out) {
  const int32_t half = axis.precision > 0 ? 1 << (axis.precision - 1) : 0;
  for (int64_t o = 0; o < axis.outputs; ++o)
    for (int64_t c = 0; c < channels; ++c) {
      int32_t sum = half;
      for (int64_t t = 0; t < axis.taps; ++t)
        sum += axis.weights[o * axis.taps + t] * row[(axis.starts[o] + t) * channels + c];
      out[o * channels + c] = static_cast<uint8_t>(most(least(sum >> axis.precision, 255), 0));
    }
}

template <class RowFilter>
int64_t padded_row(const Resize &a, const RowFilter &filter) {
  return padded(a.columns.inputs * a.channels + filter.padding(), kImageLine);
}

// Fills in the sizes of a band; returns its bytes.
template <class RowFilter>
int64_t lay_out_band(const Resize &a, const RowFilter &filter, uint8_t *memory, Band *band) {
  const int64_t block = a.resize_columns ? kRowBlock * padded_row(a, filter) : 0;
  band->slots = 1;
  while (band->slots < a.rows.taps + kRowBlock) band->slots *= 2;
  band->slot_bytes = padded(a.columns.outputs * a.channels, kImageLine);
  const int64_t ring = a.resize_columns && a.resize_rows ? band->slots * band->slot_bytes : 0;
  band->block = memory;
  band->ring = memory + block;
  band->from = reinterpret_cast<const uint8_t **>(memory + block + ring);
  return block + ring + a.rows.taps * static_cast<int64_t>(sizeof(uint8_t *));
}

// Rows [first, last) of the result. Rows of the image are filtered along their width as the columns'
// filter gets to them, each once, into a ring that stays in the cache.
//   filter.rows(rows, stride, count, out): filters `count` rows (at most kRowBlock), padded.
//   column(from, weights, taps, precision, width, out): one row of results from the rows `from[t]`.
template <class RowFilter, class Column>
void resize_band(const Resize &a, const RowFilter &filter, const Column &column, const Band &band,
                 int64_t first, int64_t last) {
  const int64_t in_width = a.columns.inputs * a.channels;
  const int64_t out_width = a.columns.outputs * a.channels;
  const int64_t stride = padded_row(a, filter);
  const auto filter_widths = [&](int64_t row, int count, uint8_t *const *out) {
    for (int r = 0; r < count; ++r)
      memcpy(band.block + r * stride, a.in + (row + r) * a.in_stride, static_cast<size_t>(in_width));
    filter.rows(band.block, stride, count, out);
  };
  if (!a.resize_rows) {
    for (int64_t row = first; row < last; row += kRowBlock) {
      const int count = static_cast<int>(least(kRowBlock, last - row));
      uint8_t *out[kRowBlock];
      for (int r = 0; r < count; ++r) out[r] = a.out + (row + r) * out_width;
      filter_widths(row, count, out);
    }
    return;
  }
  int64_t ready = a.rows.starts[first];
  for (int64_t row = first; row < last; ++row) {
    const int64_t start = a.rows.starts[row];
    const int64_t end = least(start + a.rows.taps, a.rows.inputs);
    while (a.resize_columns && ready < end) {
      const int count = static_cast<int>(least(kRowBlock, a.rows.inputs - ready));
      uint8_t *out[kRowBlock];
      for (int r = 0; r < count; ++r)
        out[r] = band.ring + ((ready + r) & (band.slots - 1)) * band.slot_bytes;
      filter_widths(ready, count, out);
      ready += count;
    }
    for (int64_t t = 0; t < a.rows.taps; ++t) {
      const int64_t tap = least(start + t, end - 1);  // weights are 0 behind the last
      band.from[t] = a.resize_columns ? band.ring + (tap & (band.slots - 1)) * band.slot_bytes
                                      : a.in + tap * a.in_stride;
    }
    column(band.from, a.rows.weights + row * a.rows.taps, a.rows.taps,
           static_cast<int>(a.rows.precision), out_width, a.out + row * out_width);
  }
}

template <class RowFilter, class Column>
Status resize_with(const Resize &a, const RowFilter &filter, const Column &column) {
  const int64_t rows = a.resize_rows ? a.rows.outputs : a.rows.inputs;
  const int64_t bands = least(a.threads, rows);
  Band sizes;
  const int64_t bytes = lay_out_band(a, filter, nullptr, &sizes);
  const Scratch memory(static_cast<int>(bands), bytes / static_cast<int64_t>(sizeof(float)) + 1);
  if (!memory) return kNoMemory;
  parallel_for(a.threads, bands, [&](int64_t item, int) {
    Band band;
    lay_out_band(a, filter, reinterpret_cast<uint8_t *>(memory.of(static_cast<int>(item))), &band);
    resize_band(a, filter, column, band, rows * item / bands, rows * (item + 1) / bands);
  });
  return kDone;
}

// The same with a filter that is made for `a`, and may find no memory for its tables.
template <class RowFilter, class Column>
Status resize_by(const Resize &a, const Column &column) {
  const RowFilter filter(a);
  return filter ? resize_with(a, filter, column) : kNoMemory;
}

// cut(corner, out): one patch of three channels.
template <class Cut>
Status for_patches(const Patchify &a, const Cut &cut) {
  const int64_t side = a.patch * a.merge, columns = a.width / side;
  const int64_t features = 3 * a.frames * a.patch * a.patch;
  parallel_rows(a.threads, a.tokens, [&](int64_t token, int) {
    const int64_t row = a.order[token] / columns * side, column = a.order[token] % columns * side;
    float *out = a.out + token * a.merge * a.merge * features;
    for (int64_t i = 0; i < a.merge; ++i)
      for (int64_t j = 0; j < a.merge; ++j, out += features)
        cut(a.pixels + ((row + i * a.patch) * a.width + column + j * a.patch) * 3, out);
  });
  return kDone;
}

constexpr int64_t kPixels = 16;  // taken apart at once

// By vectors of 16 bytes. pixels.load(from, count): kPixels pixels, of which `count` bytes may be read;
// pixels.channel(loaded, c): their bytes of one channel. bytes_as_floats widens the first kLanes of them, and
// skip_bytes drops those.
template <class Pixels>
void cut_patch(const Patchify &a, const Pixels &pixels, const uint8_t *corner, float *out) {
  const int64_t size = a.patch, area = size * size;
  for (int64_t row = 0; row < size; ++row)
    for (int64_t column = 0; column < size; column += kPixels) {
      const int64_t count = least(kPixels, size - column);
      const auto loaded = pixels.load(corner + (row * a.width + column) * 3, 3 * count);
      for (int channel = 0; channel < 3; ++channel) {
        auto bytes = pixels.channel(loaded, channel);
        for (int64_t start = 0; start < kPixels && start < count; start += kLanes, bytes = skip_bytes(bytes)) {
          const Mask mask = lane_mask(count - start);
          // Divided, not multiplied by the inverse: equal to the published values to the last bit.
          const Floats value =
              divide(subtract(bytes_as_floats(bytes), set(a.mean[channel])), set(a.deviation[channel]));
          float *to = out + channel * a.frames * area + row * size + column + start;
          for (int32_t frame = 0; frame < a.frames; ++frame) store(to + frame * area, mask, value);
        }
      }
    }
}

template <class Pixels>
Status patchify_with(const Patchify &a, const Pixels &pixels) {
  return for_patches(a, [&](const uint8_t *corner, float *out) { cut_patch(a, pixels, corner, out); });
}

}  // namespace trine::TRINE_ISA
