// Vectors of NEON, which every 64-bit ARM processor has: 4 lanes.
#pragma once

#include <arm_neon.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/calls.h"

namespace trine::TRINE_ISA {

using Floats = float32x4_t;

constexpr int kLanes = 4;        // float32 or int32 of a vector
constexpr int kTileRows = 6;     // of a tile: 6 x 4 accumulators, 4 weights and 1 input fit 32 registers
constexpr int kTileVectors = 4;

// Lanes that count: the first `count`. NEON masks no loads, so others are copied.
struct Mask {
  int count;  // 0 to 4
  uint32x4_t lanes() const {
    static const uint32_t numbers[kLanes] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(numbers), vdupq_n_u32(static_cast<uint32_t>(count)));
  }
};

inline Mask lane_mask(int64_t count) {
  return {static_cast<int>(count >= kLanes ? kLanes : count <= 0 ? 0 : count)};
}

inline Floats zero() { return vdupq_n_f32(0.0f); }
inline Floats set(float x) { return vdupq_n_f32(x); }
inline Floats load(const float *from) { return vld1q_f32(from); }
inline Floats load(const float *from, Mask mask) {
  if (mask.count == kLanes) return vld1q_f32(from);
  float all[kLanes] = {};
  if (mask.count > 0) memcpy(all, from, static_cast<size_t>(mask.count) * sizeof(float));
  return vld1q_f32(all);
}
// Of int32, as float32.
inline Floats load_integers(const int32_t *from) { return vcvtq_f32_s32(vld1q_s32(from)); }
inline void store(float *to, Floats x) { vst1q_f32(to, x); }
inline void store(float *to, Mask mask, Floats x) {
  if (mask.count == kLanes) {
    vst1q_f32(to, x);
  } else if (mask.count > 0) {
    float all[kLanes];
    vst1q_f32(all, x);
    memcpy(to, all, static_cast<size_t>(mask.count) * sizeof(float));
  }
}

inline Floats add(Floats x, Floats y) { return vaddq_f32(x, y); }
inline Floats subtract(Floats x, Floats y) { return vsubq_f32(x, y); }
inline Floats multiply(Floats x, Floats y) { return vmulq_f32(x, y); }
inline Floats divide(Floats x, Floats y) { return vdivq_f32(x, y); }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return vfmaq_f32(z, x, y); }                  // xy + z
inline Floats multiply_subtract(Floats x, Floats y, Floats z) { return vfmaq_f32(vnegq_f32(z), x, y); }  // xy - z
// The second where one is no number.
inline Floats smaller(Floats x, Floats y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline Floats larger(Floats x, Floats y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline Floats magnitude(Floats x) { return vabsq_f32(x); }
inline Floats keep(Mask mask, Floats x) { return vbslq_f32(mask.lanes(), x, zero()); }
inline Floats larger_where(Floats top, Mask mask, Floats x) {
  return vbslq_f32(mask.lanes(), larger(top, x), top);
}
// x where `sign` is below 0, else y.
inline Floats where_negative(Floats sign, Floats x, Floats y) {
  return vbslq_f32(vcltzq_f32(sign), x, y);
}
inline float sum_of(Floats x) { return vaddvq_f32(x); }
inline float largest_of(Floats x) { return vmaxvq_f32(x); }

// The first `count` of up to 16 bytes, zeros behind them; nothing beyond them is read.
inline uint8x16_t load_bytes(const void *from, int64_t count) {
  uint8_t bytes[16] = {};
  if (count > 0) memcpy(bytes, from, static_cast<size_t>(count < 16 ? count : 16));
  return vld1q_u8(bytes);
}

// The first kLanes of 16 bytes as float32, and the bytes behind them.
inline Floats bytes_as_floats(uint8x16_t bytes) {
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vget_low_u8(bytes)))));
}
inline uint8x16_t skip_bytes(uint8x16_t bytes) { return vextq_u8(bytes, bytes, kLanes); }

template <int number>
inline Floats load_as_float(const void *base, int64_t index, Mask mask) {
  if constexpr (number == kFloat32) {
    return load(static_cast<const float *>(base) + index, mask);
  } else if constexpr (number == kInt8) {
    const uint8x16_t bytes = load_bytes(static_cast<const int8_t *>(base) + index, mask.count);
    const int16x8_t words = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(bytes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
  } else {
    const uint16_t *from = static_cast<const uint16_t *>(base) + index;
    const uint16x4_t half =
        mask.count == kLanes
            ? vld1_u16(from)
            : vget_low_u16(vreinterpretq_u16_u8(load_bytes(from, 2 * mask.count)));
    if constexpr (number == kFloat16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
  }
}

// Rounds half to even, adds 128, stores bytes. x lies in -127..127.
inline void store_bytes(uint8_t *to, Mask mask, Floats x) {
  const uint16x4_t words =
      vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(128))));
  uint8_t all[8];
  vst1_u8(all, vmovn_u16(vcombine_u16(words, words)));
  memcpy(to, all, static_cast<size_t>(mask.count));
}

inline Floats rounded(Floats x) { return vrndnq_f32(x); }
// x * 2^n by the power's bits: n is -126 to 127.
inline Floats times_power_of_two(Floats x, Floats n) {
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return multiply(x, vreinterpretq_f32_s32(power));
}
// y where x is at least `limit`, else 0.
inline Floats where_at_least(Floats x, Floats limit, Floats y) {
  return vbslq_f32(vcgeq_f32(x, limit), y, zero());
}

// One butterfly of lanes whose numbers differ in bit kBit: (a, b) -> (a + b, a - b).
template <int kBit>
inline Floats turn_lanes(Floats v) {
  constexpr uint32_t kSign = 0x80000000u;
  static const uint32_t signs[kLanes] = {0, kBit == 1 ? kSign : 0, kBit == 2 ? kSign : 0, kSign};
  const Floats other = kBit == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
  return add(other, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), vld1q_u32(signs))));
}

// Writes the transpose of 4 rows of 4 numbers: out[i * stride + j] = rows[j][i].
inline void transpose(Floats (&r)[kLanes], float *out, int64_t stride) {
  const float32x4x2_t first = vzipq_f32(r[0], r[2]), second = vzipq_f32(r[1], r[3]);
  const float32x4x2_t low = vzipq_f32(first.val[0], second.val[0]);
  const float32x4x2_t high = vzipq_f32(first.val[1], second.val[1]);
  store(out, low.val[0]);
  store(out + stride, low.val[1]);
  store(out + 2 * stride, high.val[0]);
  store(out + 3 * stride, high.val[1]);
}

}  // namespace trine::TRINE_ISA
