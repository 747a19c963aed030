// Row by row: norms, quantisation, rotation and activations, between the products.
#pragma once

#include <math.h>

#include "../common/pool.h"
#include "../common/scratch.h"
#include "functions.h"

namespace trine::TRINE_ISA {

constexpr float kLargest = 127.0f, kLeastScale = 1e-30f;

// Channels of a block that is rotated.
constexpr int64_t kRotation = 64;

inline int64_t filled_width(int64_t width) {
  return (width + kRotation - 1) / kRotation * kRotation;
}

constexpr int kBlockVectors = kRotation / kLanes;

// The butterflies inside a vector, then those between the vectors of a block.
inline void turn_block(Floats (&v)[kBlockVectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < kBlockVectors; ++i) {
    v[i] = turn_lanes<1>(v[i]);
    v[i] = turn_lanes<2>(v[i]);
    if constexpr (kLanes > 4) v[i] = turn_lanes<4>(v[i]);
    if constexpr (kLanes > 8) v[i] = turn_lanes<8>(v[i]);
  }
#pragma GCC unroll 4
  for (int step = 1; step < kBlockVectors; step *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < kBlockVectors; ++i) {
      if (i & step) continue;
      const Floats first = v[i], second = v[i + step];
      v[i] = add(first, second);
      v[i + step] = subtract(first, second);
    }
}

// Multiplies each block of a row by Sylvester's Hadamard matrix over 8, and returns the largest
// magnitudes by lane. Writes rows filled to whole blocks.
inline Floats rotate_blocks(const float *x, const float *inliers, int64_t width, float *out) {
  const Floats eighth = set(0.125f);
  Floats largest = zero();
  for (int64_t start = 0; start < width; start += kRotation) {
    Floats v[kBlockVectors];
    for (int part = 0; part < kBlockVectors; ++part) {
      const int64_t i = start + part * kLanes;
      const Mask m = lane_mask(width - i);
      v[part] = multiply(load(x + i, m), eighth);
      if (inliers != nullptr) v[part] = multiply(v[part], load(inliers + i, m));
    }
    turn_block(v);
    for (int part = 0; part < kBlockVectors; ++part) {
      largest = larger(largest, magnitude(v[part]));
      store(out + start + part * kLanes, v[part]);
    }
  }
  return largest;
}

inline Floats largest_magnitudes(const float *x, const float *inliers, int64_t width) {
  Floats largest = zero();
  for (int64_t i = 0; i < width; i += kLanes) {
    const Mask m = lane_mask(width - i);
    Floats v = load(x + i, m);
    if (inliers != nullptr) v = multiply(v, load(inliers + i, m));
    largest = larger(largest, magnitude(v));
  }
  return largest;
}

// `buffer` has room for the norm of a row where its result is not wanted, then for a rotated row.
inline void prepare_row(const Rows &a, int64_t row, float *buffer) {
  const float *x = a.x + row * a.x_stride;
  if (a.norm_weight != nullptr) {
    Floats sum = zero();
    for (int64_t i = 0; i < a.width; i += kLanes) {
      const Floats v = load(x + i, lane_mask(a.width - i));
      sum = multiply_add(v, v, sum);
    }
    const float mean = sum_of(sum) / static_cast<float>(a.width);
    const Floats factor = set(1.0f / sqrtf(mean + a.epsilon));
    float *out = a.normed != nullptr ? a.normed + row * a.width : buffer;
    for (int64_t i = 0; i < a.width; i += kLanes) {
      const Mask m = lane_mask(a.width - i);
      const Floats v = multiply(load(x + i, m), factor);
      store(out + i, m,
                            multiply(v, load(a.norm_weight + i, m)));
    }
    x = out;
  }
  if (a.quantised == nullptr) return;
  int64_t width = a.width;
  Floats largest;
  if (a.rotated) {
    float *turned = buffer + filled_width(a.width);
    largest = rotate_blocks(x, a.inliers, a.width, turned);
    x = turned;
    width = filled_width(a.width);
  } else {
    largest = largest_magnitudes(x, a.inliers, a.width);
  }
  largest = larger(largest, set(kLargest * kLeastScale));
  const float scale = largest_of(largest) * (1.0f / kLargest);
  a.scales[row] = scale;
  const Floats inverse = set(1.0f / scale);
  const Floats high = set(kLargest), low = set(-kLargest);
  uint8_t *out = a.quantised + row * a.quantised_stride;
  for (int64_t i = 0; i < a.quantised_stride; i += kLanes) {
    const Floats v = multiply(load(x + i, lane_mask(width - i)), inverse);
    store_bytes(out + i, lane_mask(a.quantised_stride - i), smaller(larger(v, low), high));
  }
}

// Rotates `heads` heads of a row: (a, b) -> (a cos - b sin, b cos + a sin), a and b its halves.
inline void rotate_row(float *x, int64_t heads, int64_t half, const float *cosine,
                       const float *sine) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * half)
    for (int64_t i = 0; i < half; i += kLanes) {
      const Mask m = lane_mask(half - i);
      const Floats c = load(cosine + i, m);
      const Floats s = load(sine + i, m);
      const Floats a = load(x + i, m);
      const Floats b = load(x + half + i, m);
      store(x + i, m, multiply_subtract(a, c, multiply(b, s)));
      store(x + half + i, m, multiply_add(b, c, multiply(a, s)));
    }
}

inline Status prepare_rows(const Rows &a) {
  const bool buffered = a.rotated || (a.norm_weight != nullptr && a.normed == nullptr);
  const Scratch buffers(a.threads, buffered ? 2 * filled_width(a.width) : 0);
  if (!buffers) return kNoMemory;
  parallel_rows(a.threads, a.rows,
                [&](int64_t row, int thread) { prepare_row(a, row, buffers.of(thread)); });
  return kDone;
}

inline Status rotate(const Rotate &a) {
  parallel_rows(a.threads, a.rows, [&](int64_t row, int) {
    rotate_row(a.x + row * a.stride, a.heads, a.half, a.cosines + row * a.half,
               a.sines + row * a.half);
  });
  return kDone;
}

inline Status swiglu_all(const Activation &a) {
  parallel_rows(a.threads, (a.count + kLanes - 1) / kLanes, [&](int64_t vector, int) {
    const int64_t i = vector * kLanes;
    const Mask m = lane_mask(a.count - i);
    store(a.x + i, m, swiglu(load(a.x + i, m), load(a.up + i, m)));
  });
  return kDone;
}

inline Status gelu_all(const Activation &a) {
  parallel_rows(a.threads, (a.count + kLanes - 1) / kLanes, [&](int64_t vector, int) {
    const int64_t i = vector * kLanes;
    const Mask m = lane_mask(a.count - i);
    store(a.x + i, m, gelu(load(a.x + i, m)));
  });
  return kDone;
}

}  // namespace trine::TRINE_ISA
