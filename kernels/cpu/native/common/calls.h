// The arguments of the kernels: what Python fills in and every instruction set reads.
//
// Nothing but numbers and pointers; structures.py repeats each field by field, and loading compares sizes.
// All strides count elements.
#pragma once

#include <cstdint>

namespace trine {

// What a kernel answers.
enum Status : int32_t { kDone = 0, kNoMemory = 1, kWrongShape = 2, kFailed = 3 };

// Number formats of matrices that are read as float32; int8 of documents only.
enum Number : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kInt8 = 3 };

// Weights of 8 bits lie in panels of 64 output columns: [panels][depth / 4][64][4].
constexpr int kPanel = 64, kDepth = 4;
// Those of bfloat16 have pairs of inputs in the place of fours.
constexpr int kPair = 2;

// Float32 terms beside the 8-bit product: factors [rows, ranks] times matrix [ranks, columns].
// With `first_rank` a row uses only `rank_count` ranks, from its own first one on.
struct Side {
  const float *factors;
  int64_t factors_stride;
  const void *matrix;
  int64_t matrix_stride;
  const int32_t *first_rank;
  int64_t rank_count;
  int32_t number;  // of the matrix
  int32_t reserved;
};

struct LinearInt8 {
  const uint8_t *x;
  const float *x_scales;
  int64_t rows;
  int64_t depth;  // padded to a multiple of 4; also the stride of x
  const int8_t *weights;
  const int32_t *offsets;  // -128 * sum of the column's weights, [panels * 64]
  const float *w_scales;   // [panels * 64]
  const float *bias;       // [panels * 64] or null
  int64_t columns;         // that are written
  float *out;
  int64_t out_stride;
  Side sides[4];    // plain: 0 and 1; gated: 0 and 1 of the gate, 2 and 3 of what it gates
  int32_t gated;
  int32_t add;      // whether the result is added to what `out` holds
  int32_t threads;
  int32_t reserved;
};

// Weights in bfloat16 lie in panels of 64 output columns: [panels][ceil(depth / 2)][64][2], zeros beyond the
// edges. Inputs are rounded to bfloat16, sums are float32.
struct LinearBFloat16 {
  const float *x;  // [rows, depth]
  int64_t rows;
  int64_t depth;
  int64_t x_stride;
  const uint16_t *weights;
  const float *bias;  // [panels * 64] or null
  int64_t columns;    // that are written
  float *out;
  int64_t out_stride;
  Side sides[4];  // as of LinearInt8
  int32_t gated;
  int32_t add;
  int32_t threads;
  int32_t reserved;
};

struct PackBFloat16 {
  const uint16_t *first;   // [depth, columns]
  const uint16_t *second;  // of the same shape, or null; then a panel holds 32 columns of each
  int64_t depth;
  int64_t columns;
  uint16_t *packed;
  int32_t threads;
  int32_t reserved;
};

struct PackInt8 {
  const int8_t *first;   // [depth, columns]
  const int8_t *second;  // of the same shape, or null; then a panel holds 32 columns of each
  int64_t depth;
  int64_t columns;
  int8_t *packed;    // [panels][ceil(depth / 4)][64][4], zeros beyond the edges
  int32_t *offsets;  // [panels * 64]: -128 times the sum of each packed column
  int32_t threads;
  int32_t reserved;
};

// Rows of float32 on their way into a product.
struct Rows {
  const float *x;  // [rows, width]
  int64_t rows;
  int64_t width;
  int64_t x_stride;
  const float *norm_weight;  // [width], or null for no norm
  float *normed;             // [rows, width] packed: the norm's result, or null
  const float *inliers;      // [width] of 0 and 1: who has a say in the scale; null for all
  uint8_t *quantised;        // [rows, quantised_stride], or null
  float *scales;             // [rows]
  int64_t quantised_stride;  // width padded to a multiple of 4, of rotated rows of kRotation
  float epsilon;
  int32_t rotated;  // whether inliers are rotated in blocks of kRotation before they are quantised
  int32_t threads;
  int32_t reserved;
};

// In place on float32 [rows, heads * 2 * half] (row stride `stride`); tables float32 [rows, half].
struct Rotate {
  float *x;
  int64_t rows;
  int64_t stride;
  int64_t heads;
  int64_t half;
  const float *cosines;
  const float *sines;
  int32_t threads;
  int32_t reserved;
};

// SwiGLU: x = silu(x) * up. GELU: x = gelu(x), and `up` is null. Element by element.
struct Activation {
  float *x;
  const float *up;
  int64_t count;
  int32_t threads;
  int32_t reserved;
};

struct LinearFloat {
  const float *x;
  int64_t rows;
  int64_t depth;
  int64_t x_stride;
  const void *weights;  // [depth, columns], packed
  const float *bias;    // [columns] or null
  int64_t columns;
  float *out;
  int64_t out_stride;
  int32_t number;  // of the weights
  int32_t add;     // whether the result is added to what `out` holds
  int32_t threads;
  int32_t reserved;
};

// factors[row, r] = x[row] . matrix[r], for `rank_count` ranks of each row from its first one on.
struct Project {
  const float *x;
  int64_t rows;
  int64_t depth;
  int64_t x_stride;
  const void *matrix;  // [ranks, depth], packed
  const int32_t *first_rank;  // [rows], or null for 0
  int64_t rank_count;
  float *factors;
  int64_t factors_stride;
  int32_t number;
  int32_t threads;
};

struct Attention {
  const float *q;     // [last_query - first_query, heads * head_dim], row stride `q_stride`
  const float *k, *v;  // [tokens, kv_heads * head_dim], row stride `kv_stride`
  int64_t q_stride, kv_stride;
  float *out;  // [last_query - first_query, heads * head_dim], row stride `out_stride`; q itself to overwrite it
  int64_t out_stride;
  const int64_t *starts;  // [sequences + 1], first token of each
  int64_t sequences;
  int64_t first_query, last_query;  // the tokens whose queries are given
  int64_t heads, kv_heads, head_dim;
  float scale;
  int32_t causal;
  int32_t threads;
  int32_t half;  // whether factors may be bfloat16, where the kernels can
};

struct MaxSim {
  const float *queries;          // [panels, dim, 32]: tokens side by side, 0 in unused lanes
  int64_t panels;
  int64_t dim;
  const void *const *documents;  // [documents], rows packed, each [lengths[d], dim]
  const int64_t *lengths;        // [documents], at least 1
  int64_t count;
  float *scores;                 // [documents, panels, 32]: the best match of each token
  int32_t number;                // how documents are stored
  int32_t threads;
};

// One axis of the filter: output i is the sum of weights[i][t] * input[starts[i] + t].
struct Axis {
  const int64_t *starts;   // [outputs], not decreasing
  const int16_t *weights;  // [outputs, taps]; 0 behind an output's last tap
  int64_t inputs;
  int64_t outputs;
  int64_t taps;  // even
  int64_t precision;  // fraction bits of the weights
};

struct Resize {
  const uint8_t *in;  // [rows.inputs, columns.inputs, channels]
  int64_t in_stride;  // bytes from row to row
  uint8_t *out;       // [rows.outputs, columns.outputs, channels], packed
  int64_t channels;
  Axis columns;
  Axis rows;
  int32_t resize_columns;  // whether each axis changes at all
  int32_t resize_rows;
  int32_t threads;
  int32_t reserved;
};

struct Patchify {
  const uint8_t *pixels;  // [height, width, 3]
  const float *mean;      // [3]
  const float *deviation;  // [3]
  const int64_t *order;   // [tokens], numbers of image tokens in raster order
  float *out;             // [tokens * merge^2, 3 * frames * patch^2]
  int64_t width;
  int64_t tokens;
  int32_t patch;
  int32_t merge;
  int32_t frames;
  int32_t threads;
};

}  // namespace trine
