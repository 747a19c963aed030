// Weights as the kernels read them.
#include "../common/pool.h"
#include "kernels.h"

namespace trine::TRINE_ISA {
namespace {

constexpr int kPanelVectors = kPanel / kLanes;

inline __m128i load_columns(const int8_t *row, int64_t count) {
  return _mm_maskz_loadu_epi8(lane_mask(count), row);
}

// Writes 16 columns of 4 rows as [16][4].
inline __m512i interleave(__m128i r0, __m128i r1, __m128i r2, __m128i r3) {
  const __m128i low01 = _mm_unpacklo_epi8(r0, r1), high01 = _mm_unpackhi_epi8(r0, r1);
  const __m128i low23 = _mm_unpacklo_epi8(r2, r3), high23 = _mm_unpackhi_epi8(r2, r3);
  __m512i out = _mm512_castsi128_si512(_mm_unpacklo_epi16(low01, low23));
  out = _mm512_inserti32x4(out, _mm_unpackhi_epi16(low01, low23), 1);
  out = _mm512_inserti32x4(out, _mm_unpacklo_epi16(high01, high23), 2);
  return _mm512_inserti32x4(out, _mm_unpackhi_epi16(high01, high23), 3);
}

}  // namespace

Status pack_int8(const PackInt8 &a) {
  const int8_t *first = a.first, *second = a.second;
  const int64_t depth = a.depth, columns = a.columns;
  const int64_t per_panel = second ? kPanel / 2 : kPanel;
  const int64_t panels = (columns + per_panel - 1) / per_panel;
  const int64_t steps = (depth + kDepth - 1) / kDepth;
  parallel_for(a.threads, panels, [&](int64_t panel, int) {
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sums[kPanelVectors] = {};
    int8_t *out = a.packed + panel * kPanel * steps * kDepth;
    for (int64_t k = 0; k < steps; ++k) {
      for (int v = 0; v < kPanelVectors; ++v, out += kLanes * kDepth) {
        const bool other = second != nullptr && v >= kPanelVectors / 2;
        const int64_t column =
            panel * per_panel + (other ? v - kPanelVectors / 2 : v) * kLanes;
        __m128i rows[kDepth];
        for (int d = 0; d < kDepth; ++d) {
          const int64_t row = k * kDepth + d;
          const int8_t *start = (other ? second : first) + row * columns + column;
          rows[d] = row < depth ? load_columns(start, columns - column) : _mm_setzero_si128();
        }
        const __m512i block = interleave(rows[0], rows[1], rows[2], rows[3]);
        _mm512_storeu_si512(out, block);
        sums[v] = _mm512_dpbusd_epi32(sums[v], ones, block);
      }
    }
    for (int v = 0; v < kPanelVectors; ++v)
      _mm512_storeu_si512(a.offsets + panel * kPanel + v * kLanes,
                          _mm512_mullo_epi32(sums[v], _mm512_set1_epi32(-128)));
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
