// Vectors of 4 lanes in plain C++, for any processor: compilers have them as an extension.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/calls.h"

namespace trine::TRINE_ISA {

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

constexpr int kLanes = 4;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;

struct Mask {
  int count;  // lanes that count: the first ones
};

inline Mask lane_mask(int64_t count) {
  return {static_cast<int>(count >= kLanes ? kLanes : count <= 0 ? 0 : count)};
}

inline Floats zero() { return Floats{}; }
inline Floats set(float x) { return Floats{x, x, x, x}; }
inline Floats load(const float *from) {
  Floats x;
  memcpy(&x, from, sizeof x);
  return x;
}
inline Floats load(const float *from, Mask mask) {
  Floats x{};
  if (mask.count > 0) memcpy(&x, from, static_cast<size_t>(mask.count) * sizeof(float));
  return x;
}
// Of int32, as float32.
inline Floats load_integers(const int32_t *from) {
  Ints x;
  memcpy(&x, from, sizeof x);
  return __builtin_convertvector(x, Floats);
}
inline void store(float *to, Floats x) { memcpy(to, &x, sizeof x); }
inline void store(float *to, Mask mask, Floats x) {
  if (mask.count > 0) memcpy(to, &x, static_cast<size_t>(mask.count) * sizeof(float));
}

inline Floats select(Ints where, Floats x, Floats y) {
  return (Floats)((where & (Ints)x) | (~where & (Ints)y));
}

inline Floats add(Floats x, Floats y) { return x + y; }
inline Floats subtract(Floats x, Floats y) { return x - y; }
inline Floats multiply(Floats x, Floats y) { return x * y; }
inline Floats divide(Floats x, Floats y) { return x / y; }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return x * y + z; }
inline Floats multiply_subtract(Floats x, Floats y, Floats z) { return x * y - z; }
// The second where one is no number.
inline Floats smaller(Floats x, Floats y) { return select(x < y, x, y); }
inline Floats larger(Floats x, Floats y) { return select(x > y, x, y); }
inline Floats magnitude(Floats x) { return (Floats)((Ints)x & 0x7FFFFFFF); }
inline Floats keep(Mask mask, Floats x) { return select(Ints{0, 1, 2, 3} < mask.count, x, zero()); }
inline Floats larger_where(Floats top, Mask mask, Floats x) {
  return select(Ints{0, 1, 2, 3} < mask.count, larger(top, x), top);
}
// x where `sign` is below 0, else y.
inline Floats where_negative(Floats sign, Floats x, Floats y) { return select(sign < 0.0f, x, y); }
inline float sum_of(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float largest_of(Floats x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}

// A float16's value, exactly: normal ones by their bits, the others as a multiple of 2^-24.
inline float from_float16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7FFF;
  if (rest < 0x0400) {
    const float value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  // Infinity and what is no number keep the highest exponent.
  const uint32_t bits = sign | ((rest << 13) + (rest < 0x7C00 ? 112u << 23 : 224u << 23));
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <int number>
inline Floats load_as_float(const void *base, int64_t index, Mask mask) {
  if constexpr (number == kFloat32) return load(static_cast<const float *>(base) + index, mask);
  Floats x{};
  for (int i = 0; i < mask.count; ++i) {
    if constexpr (number == kInt8) {
      x[i] = static_cast<const int8_t *>(base)[index + i];
    } else {
      const uint16_t half = static_cast<const uint16_t *>(base)[index + i];
      if constexpr (number == kFloat16) {
        x[i] = from_float16(half);
      } else {
        const uint32_t bits = static_cast<uint32_t>(half) << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        x[i] = value;
      }
    }
  }
  return x;
}

// Half to even, of numbers below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline Floats rounded(Floats x) {
  const Floats shift = set(12582912.0f);
  return (x + shift) - shift;
}

// Rounds half to even, adds 128, stores bytes. x lies in -127..127.
inline void store_bytes(uint8_t *to, Mask mask, Floats x) {
  const Ints q = __builtin_convertvector(rounded(x), Ints) + 128;
  for (int i = 0; i < mask.count; ++i) to[i] = static_cast<uint8_t>(q[i]);
}

// x * 2^n by the power's bits: n is -126 to 127.
inline Floats times_power_of_two(Floats x, Floats n) {
  return x * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}
// y where x is at least `limit`, else 0.
inline Floats where_at_least(Floats x, Floats limit, Floats y) { return select(x >= limit, y, zero()); }

// One butterfly of lanes whose numbers differ in bit kBit: (a, b) -> (a + b, a - b).
template <int kBit>
inline Floats turn_lanes(Floats v) {
  if constexpr (kBit == 1) return Floats{v[0] + v[1], v[0] - v[1], v[2] + v[3], v[2] - v[3]};
  return Floats{v[0] + v[2], v[1] + v[3], v[0] - v[2], v[1] - v[3]};
}

// Writes the transpose of 4 rows of 4 numbers: out[i * stride + j] = rows[j][i].
inline void transpose(Floats (&r)[kLanes], float *out, int64_t stride) {
  for (int i = 0; i < kLanes; ++i) store(out + i * stride, Floats{r[0][i], r[1][i], r[2][i], r[3][i]});
}

}  // namespace trine::TRINE_ISA
