// The kernels in plain C++, correct on any processor rather than fast on one.
#include "simd.h"
// Vectors first.
#include "../common/table.h"
#include "../generic/attention.h"
#include "../generic/images.h"
#include "../generic/linear_bfloat16.h"
#include "../generic/linear_float.h"
#include "../generic/maxsim.h"
#include "../generic/pack.h"
#include "../generic/rows.h"
#include "linear_int8.h"

namespace trine::TRINE_ISA {
namespace {

struct RowFilter {
  const Resize &a;

  int64_t padding() const { return a.columns.taps * a.channels; }
  void rows(const uint8_t *rows, int64_t stride, int count, uint8_t *const *out) const {
    for (int r = 0; r < count; ++r) filter_row(rows + r * stride, a.columns, a.channels, out[r]);
  }
};

// One row of results from the rows `from[t]`, each `width` bytes.
void filter_column(const uint8_t *const *from, const int16_t *weights, int64_t taps, int precision,
                   int64_t width, uint8_t *out) {
  constexpr int64_t kAtOnce = 64;
  const int32_t half = precision > 0 ? 1 << (precision - 1) : 0;
  for (int64_t i = 0; i < width; i += kAtOnce) {
    const int64_t count = least(kAtOnce, width - i);
    int32_t sums[kAtOnce];
    for (int64_t j = 0; j < count; ++j) sums[j] = half;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t j = 0; j < count; ++j) sums[j] += weights[t] * from[t][i + j];
    for (int64_t j = 0; j < count; ++j)
      out[i + j] = static_cast<uint8_t>(most(least(sums[j] >> precision, 255), 0));
  }
}

Status resize(const Resize &a) { return resize_with(a, RowFilter{a}, filter_column); }

Status patchify(const Patchify &a) {
  return for_patches(a, [&](const uint8_t *corner, float *out) {
    for (int channel = 0; channel < 3; ++channel) {
      const float mean = a.mean[channel], deviation = a.deviation[channel];
      for (int32_t frame = 0; frame < a.frames; ++frame)
        for (int64_t row = 0; row < a.patch; ++row)
          for (int64_t column = 0; column < a.patch; ++column)
            // Divided, not multiplied by the inverse: equal to the published values to the last bit.
            *out++ = (static_cast<float>(corner[(row * a.width + column) * 3 + channel]) - mean) / deviation;
    }
  });
}

}  // namespace

const Kernels &kernels() {
  static const Kernels table = {
      false,   pack_int8,  prepare_rows, linear_int8,            linear_float, project,
      rotate,  swiglu_all, gelu_all,     attention<Float32Only>,
      pack_bfloat16, linear_bfloat16<Widened>, maxsim, resize, patchify};
  return table;
}

}  // namespace trine::TRINE_ISA
