// Functions of vectors that are the same over those of every simd.h, which is included before this.
#pragma once

namespace trine::TRINE_ISA {

constexpr int kTile = kLanes * kTileVectors;  // columns of a float32 tile

inline int64_t least(int64_t x, int64_t y) { return y < x ? y : x; }
inline int64_t most(int64_t x, int64_t y) { return x < y ? y : x; }

inline int64_t padded(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// e^x to within 2 units in the last place for x from -87 to 88; below that 0, above e^88. Range reduction by ln 2
// in two parts and a polynomial of degree 6 (Cephes' expf). Of simd.h: rounded(x) to the nearest integer, and
// times_power_of_two(x, n), x * 2^n for n from -126 to 127.
inline Floats exponential(Floats x) {
  const Floats low = set(-87.33654f);
  const Floats inside = smaller(larger(x, low), set(88.0f));
  const Floats n = rounded(multiply(inside, set(1.44269504088896341f)));
  Floats r = multiply_add(n, set(-0.693359375f), inside);
  r = multiply_add(n, set(2.12194440e-4f), r);
  Floats p = set(1.9875691500e-4f);
  p = multiply_add(p, r, set(1.3981999507e-3f));
  p = multiply_add(p, r, set(8.3334519073e-3f));
  p = multiply_add(p, r, set(4.1665795894e-2f));
  p = multiply_add(p, r, set(1.6666665459e-1f));
  p = multiply_add(p, r, set(5.0000001201e-1f));
  p = multiply_add(p, multiply(r, r), add(r, set(1.0f)));
  return where_at_least(x, low, times_power_of_two(p, n));
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
