// Functions of vectors that are the same over those of every simd.h, which is included before this.
#pragma once

namespace trine::TRINE_ISA {

constexpr int kTile = kLanes * kTileVectors;  // columns of a float32 tile

inline int64_t least(int64_t x, int64_t y) { return y < x ? y : x; }
inline int64_t most(int64_t x, int64_t y) { return x < y ? y : x; }

inline int64_t padded(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// silu(gate) * up
inline Floats swiglu(Floats gate, Floats up) {
  const Floats one = set(1.0f);
  const Floats e = exponential(subtract(zero(), gate));
  return multiply(divide(gate, add(one, e)), up);
}

// x * Phi(x), Phi by the error function of Abramowitz and Stegun 7.1.26 (error below 1.5e-7).
inline Floats gelu(Floats x) {
  const Floats one = set(1.0f);
  const Floats z = multiply(magnitude(x), set(0.70710678118654752f));
  const Floats t = divide(one, multiply_add(z, set(0.3275911f), one));
  Floats p = set(1.061405429f);
  p = multiply_add(p, t, set(-1.453152027f));
  p = multiply_add(p, t, set(1.421413741f));
  p = multiply_add(p, t, set(-0.284496736f));
  p = multiply_add(p, t, set(0.254829592f));
  const Floats tail = multiply(multiply(p, t), exponential(multiply(z, subtract(zero(), z))));
  // Phi(-|x|) = tail / 2; Phi(|x|) = 1 - tail / 2.
  const Floats half = multiply(tail, set(0.5f));
  return multiply(x, where_negative(x, half, subtract(one, half)));
}

}  // namespace trine::TRINE_ISA
