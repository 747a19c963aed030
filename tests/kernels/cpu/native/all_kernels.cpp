// Every kernel of every instruction set that this processor has, against plain loops, on awkward shapes.
//
// Prints a line for each instruction set: its name, then "ok", "not here", or what was wrong. For processors
// that only an emulator has, where Python would take minutes to start.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../../../kernels/cpu/native/common/levels.h"

using namespace trine;

namespace {

template <class T>
using Many = std::vector<T>;
using Floats = Many<float>;

bool failed;

void fail(const char *what, size_t at, double found, double expected) {
  if (!failed) std::printf("%s: [%zu] is %.9g, not %.9g\n", what, at, found, expected);
  failed = true;
}

template <class T, class U>
void compare(const char *what, const Many<T> &found, const Many<U> &expected, double relative, double absolute) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(double(found[i]) - double(expected[i]));
    if (!(error <= absolute + relative * std::fabs(double(expected[i])))) fail(what, i, found[i], expected[i]);
  }
}

template <class Arguments>
void run(const char *what, Status (*kernel)(const Arguments &), const Arguments &arguments) {
  if (kernel(arguments) != kDone) fail(what, 0, 1, 0);
}

uint64_t state = 88172645463325252ull;
uint64_t draw() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}
int64_t draw_in(int64_t low, int64_t high) { return low + int64_t(draw() % uint64_t(high - low + 1)); }
float draw_float() { return float(draw_in(-1000000, 1000000)) * 1e-6f; }
Floats draw_floats(int64_t count) {
  Floats all(static_cast<size_t>(count));
  for (float &x : all) x = draw_float();
  return all;
}
template <class T>
Many<T> draw_many(int64_t count, int64_t low, int64_t high) {
  Many<T> all(static_cast<size_t>(count));
  for (T &x : all) x = T(draw_in(low, high));
  return all;
}
int64_t up_to(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// A matrix as it is stored, and as it is read.
struct Stored {
  Many<uint16_t> halves;
  Floats read;
  int32_t number;
  const void *data() const { return number == kFloat32 ? static_cast<const void *>(read.data()) : halves.data(); }
};

float from_float16(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return float(half & 0x8000 ? -size : size);
}

Stored draw_stored(int64_t count, int32_t number) {
  Stored all{{}, draw_floats(count), number};
  if (number == kFloat32) return all;
  for (float &x : all.read) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    // Of float16 subnormal ones too.
    const uint16_t half = number == kBFloat16 ? uint16_t(bits >> 16) : uint16_t(draw() % 0x3C00 | (draw() & 0x8000));
    all.halves.push_back(half);
    bits = uint32_t(half) << 16;
    if (number == kBFloat16) std::memcpy(&x, &bits, sizeof bits);
    if (number == kFloat16) x = from_float16(half);
  }
  return all;
}

constexpr int32_t kNumbers[] = {kFloat32, kBFloat16, kFloat16};

double silu(double x) { return x / (1 + std::exp(-x)); }

// An 8-bit product: packed by this table, with all that may follow it.
void check_int8(const Kernels &table, const Kernels &plain, int64_t rows, int64_t depth, int64_t columns, bool gated,
                bool bare, int32_t number) {
  const int64_t parts = gated ? 2 : 1, wide = up_to(depth, 4), panels = up_to(columns, 64 / parts) * parts / 64;
  const Many<int8_t> weights[2] = {draw_many<int8_t>(depth * columns, -127, 127),
                                   draw_many<int8_t>(depth * columns, -127, 127)};
  Many<int8_t> packed(size_t(panels * 64 * wide)), packed_plainly(packed.size());
  Many<int32_t> offsets(size_t(panels * 64)), offsets_plainly(offsets.size());
  PackInt8 pack{weights[0].data(), gated ? weights[1].data() : nullptr, depth, columns, packed_plainly.data(),
                offsets_plainly.data(), 2, 0};
  run("pack_int8", plain.pack_int8, pack);
  pack.packed = packed.data();
  pack.offsets = offsets.data();
  run("pack_int8", table.pack_int8, pack);
  compare("pack_int8", packed, packed_plainly, 0, 0);
  compare("pack_int8 offsets", offsets, offsets_plainly, 0, 0);

  Many<uint8_t> x = draw_many<uint8_t>(rows * wide, 0, 255);
  const int64_t padded = panels * 64;
  Floats x_scales(size_t(rows), 1.0f), w_scales(size_t(padded), 1.0f), bias(size_t(padded), 0.0f);
  const int64_t ranks = 3;
  const Stored matrix = draw_stored(2 * ranks * columns, number);
  const Floats factors = draw_floats(rows * 2 * ranks);
  const Many<int32_t> first = draw_many<int32_t>(rows, 0, ranks);
  LinearInt8 call{};
  if (!bare) {
    for (float &scale : x_scales) scale = std::fabs(draw_float()) * 0.003f;
    for (float &scale : w_scales) scale = std::fabs(draw_float()) * 0.003f;
    bias = draw_floats(padded);
    call.bias = bias.data();
    const Side side{factors.data(), 2 * ranks, matrix.data(), columns, first.data(), ranks, number, 0};
    call.sides[0] = side;
    call.sides[gated ? 3 : 1] = side;
  }
  const int64_t stride = columns + 5;
  const Floats before = draw_floats(rows * stride);
  Floats out = before, expected = before;
  call.x = x.data();
  call.x_scales = x_scales.data();
  call.rows = rows;
  call.depth = wide;
  call.weights = packed.data();
  call.offsets = offsets.data();
  call.w_scales = w_scales.data();
  call.columns = columns;
  call.out = out.data();
  call.out_stride = stride;
  call.gated = gated;
  call.add = !gated && !bare;
  call.threads = 2;
  run("linear_int8", table.linear_int8, call);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < columns; ++c) {
      double values[2];
      for (int64_t part = 0; part < parts; ++part) {
        int64_t sum = 0;
        for (int64_t k = 0; k < depth; ++k)
          sum += (int64_t(x[size_t(row * wide + k)]) - 128) * weights[part][size_t(k * columns + c)];
        const size_t at = size_t(c / (64 / parts) * 64 + part * 32 + c % (64 / parts));
        values[part] = double(sum) * w_scales[at] * x_scales[size_t(row)] + bias[at];
        if (bare) continue;
        double side = 0;
        for (int64_t r = first[size_t(row)]; r < first[size_t(row)] + ranks; ++r)
          side += double(factors[size_t(row * 2 * ranks + r)]) * matrix.read[size_t(r * columns + c)];
        values[part] += gated ? side : 2 * side;
      }
      float &to = expected[size_t(row * stride + c)];
      to = float(gated ? silu(values[0]) * values[1] : values[0] + (call.add ? to : 0.0f));
    }
  if (bare && !gated) {
    compare("linear_int8, exact", out, expected, 0, 0);
    Floats plainly = before;
    call.out = plainly.data();
    run("linear_int8", plain.linear_int8, call);
    if (std::memcmp(plainly.data(), out.data(), out.size() * sizeof(float)) != 0) fail("linear_int8, bits", 0, 1, 0);
  } else if (!bare) {
    compare("linear_int8", out, expected, 2e-5, 2e-5);
  }
}

float rounded_to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// A product of weights in bfloat16: packed by this table, with a bias and one side.
void check_bfloat16(const Kernels &table, int64_t rows, int64_t depth, int64_t columns, bool gated) {
  const int64_t parts = gated ? 2 : 1, panels = up_to(columns, 64 / parts) * parts / 64, ranks = 3;
  const Stored weights[2] = {draw_stored(depth * columns, kBFloat16), draw_stored(depth * columns, kBFloat16)};
  Many<uint16_t> packed(size_t(panels * 64 * up_to(depth, 2)));
  run("pack_bfloat16", table.pack_bfloat16,
      PackBFloat16{weights[0].halves.data(), gated ? weights[1].halves.data() : nullptr, depth, columns, packed.data(), 2, 0});
  const Floats x = draw_floats(rows * depth), bias = draw_floats(panels * 64), factors = draw_floats(rows * ranks);
  const Stored matrix = draw_stored(ranks * columns, kFloat32);
  Floats out(size_t(rows * columns));
  LinearBFloat16 call{};
  call.x = x.data();
  call.rows = rows;
  call.depth = call.x_stride = depth;
  call.weights = packed.data();
  call.bias = bias.data();
  call.columns = call.out_stride = columns;
  call.out = out.data();
  call.sides[0] = Side{factors.data(), ranks, matrix.data(), columns, nullptr, ranks, kFloat32, 0};
  call.gated = gated;
  call.threads = 2;
  run("linear_bfloat16", table.linear_bfloat16, call);
  Many<double> expected;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < columns; ++c) {
      double values[2];
      for (int64_t part = 0; part < parts; ++part) {
        values[part] = bias[size_t(c / (64 / parts) * 64 + part * 32 + c % (64 / parts))];
        for (int64_t k = 0; k < depth; ++k)
          values[part] += double(rounded_to_bfloat16(x[size_t(row * depth + k)])) * weights[part].read[size_t(k * columns + c)];
        for (int64_t r = 0; part == 0 && r < ranks; ++r)
          values[0] += double(factors[size_t(row * ranks + r)]) * matrix.read[size_t(r * columns + c)];
      }
      expected.push_back(gated ? silu(values[0]) * values[1] : values[0]);
    }
  compare("linear_bfloat16", out, expected, 2e-5, 2e-5);
}

void check_rows(const Kernels &table, int64_t rows, int64_t width, bool rotated, bool normed) {
  const Floats x = draw_floats(rows * width), norm = draw_floats(width);
  Floats inliers(static_cast<size_t>(width));
  for (size_t i = 0; i < inliers.size(); ++i) inliers[i] = i % 3 ? 1.0f : 0.0f;
  const int64_t stride = rotated ? up_to(width, 64) : up_to(width, 4);
  Many<uint8_t> quantised(size_t(rows * stride));
  Floats scales(static_cast<size_t>(rows)), out(size_t(rows * width));
  const Rows call{x.data(), rows, width, width, normed ? norm.data() : nullptr, normed ? out.data() : nullptr,
                  inliers.data(), quantised.data(), scales.data(), stride, 1e-6f, rotated, 2, 0};
  run("prepare_rows", table.prepare_rows, call);
  for (int64_t row = 0; row < rows; ++row) {
    Many<double> seen(static_cast<size_t>(stride));
    double squares = 0, largest = 127e-30;
    for (int64_t i = 0; i < width; ++i) squares += double(x[size_t(row * width + i)]) * x[size_t(row * width + i)];
    Floats own;
    for (int64_t i = 0; i < width; ++i) {
      double value = x[size_t(row * width + i)];
      if (normed) value *= norm[size_t(i)] / std::sqrt(squares / double(width) + 1e-6);
      own.push_back(float(value));
      seen[size_t(i)] = rotated ? value * inliers[size_t(i)] : value;
      if (!rotated) largest = std::fmax(largest, std::fabs(value) * inliers[size_t(i)]);
    }
    if (normed) compare("prepare_rows norm", Floats(out.begin() + row * width, out.begin() + (row + 1) * width), own, 2e-6, 1e-6);
    if (rotated)
      for (int64_t block = 0; block < stride; block += 64) {
        double turned[64] = {};
        for (int i = 0; i < 64; ++i)
          for (int j = 0; j < 64; ++j)
            turned[i] += seen[size_t(block + j)] * (__builtin_popcount(unsigned(i & j)) % 2 ? -0.125 : 0.125);
        for (int i = 0; i < 64; ++i) {
          seen[size_t(block + i)] = turned[i];
          largest = std::fmax(largest, std::fabs(turned[i]));
        }
      }
    const double scale = largest / 127;
    compare("prepare_rows scale", Floats{scales[size_t(row)]}, Many<double>{scale}, 1e-5, 0);
    for (int64_t i = 0; i < stride; ++i) {
      const double exact = std::fmin(std::fmax(seen[size_t(i)] / scale, -127), 127) + 128;
      if (!(std::fabs(quantised[size_t(row * stride + i)] - exact) <= 0.502)) fail("prepare_rows", size_t(i), quantised[size_t(row * stride + i)], exact);
    }
  }
}

void check_floats(const Kernels &table, int64_t rows, int64_t depth, int64_t columns, int32_t number) {
  const Floats x = draw_floats(rows * depth), bias = draw_floats(columns);
  const Stored weights = draw_stored(depth * columns, number);
  Floats out = draw_floats(rows * columns);
  Many<double> expected(out.begin(), out.end());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < columns; ++c) {
      double sum = bias[size_t(c)];
      for (int64_t k = 0; k < depth; ++k) sum += double(x[size_t(row * depth + k)]) * weights.read[size_t(k * columns + c)];
      expected[size_t(row * columns + c)] += sum;
    }
  const LinearFloat call{x.data(), rows, depth, depth, weights.data(), bias.data(), columns, out.data(), columns, number, 1, 2, 0};
  run("linear_float", table.linear_float, call);
  compare("linear_float", out, expected, 1e-5, 1e-4);

  const int64_t ranks = 5;
  const Stored matrix = draw_stored(2 * ranks * depth, number);
  const Many<int32_t> first = draw_many<int32_t>(rows, 0, ranks);
  Floats factors(size_t(rows * 2 * ranks), 7.0f);
  Many<double> products(factors.begin(), factors.end());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t r = first[size_t(row)]; r < first[size_t(row)] + ranks; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += double(x[size_t(row * depth + k)]) * matrix.read[size_t(r * depth + k)];
      products[size_t(row * 2 * ranks + r)] = sum;
    }
  const Project project{x.data(), rows, depth, depth, matrix.data(), first.data(), ranks, factors.data(), 2 * ranks, number, 2};
  run("project", table.project, project);
  compare("project", factors, products, 1e-5, 1e-4);
}

void check_elements(const Kernels &table) {
  const int64_t rows = 9, heads = 3, half = 21, stride = heads * 2 * half + 7;
  Floats x = draw_floats(rows * stride);
  Floats cosines, sines;
  for (int64_t i = 0; i < rows * half; ++i) {
    const float angle = 3 * draw_float();
    cosines.push_back(std::cos(angle));
    sines.push_back(std::sin(angle));
  }
  Many<double> turned(x.begin(), x.end());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < half; ++i) {
        const size_t at = size_t(row * stride + head * 2 * half + i), other = at + size_t(half);
        const double c = cosines[size_t(row * half + i)], s = sines[size_t(row * half + i)];
        turned[at] = x[at] * c - x[other] * s;
        turned[other] = x[other] * c + x[at] * s;
      }
  run("rotate", table.rotate, Rotate{x.data(), rows, stride, heads, half, cosines.data(), sines.data(), 2, 0});
  compare("rotate", x, turned, 1e-5, 1e-6);

  Floats gate;
  for (int i = 0; i < 2011; ++i) gate.push_back(float(i - 1000) * 0.1f + draw_float());
  const Floats up = draw_floats(int64_t(gate.size()));
  Floats gelu = gate;
  Many<double> gated, gelued;
  for (size_t i = 0; i < gate.size(); ++i) {
    gated.push_back(silu(gate[i]) * up[i]);
    gelued.push_back(0.5 * gate[i] * std::erfc(-gate[i] / std::sqrt(2.0)));
  }
  run("swiglu", table.swiglu, Activation{gate.data(), up.data(), int64_t(gate.size()), 2, 0});
  compare("swiglu", gate, gated, 1e-5, 1e-6);
  run("gelu", table.gelu, Activation{gelu.data(), nullptr, int64_t(gelu.size()), 2, 0});
  compare("gelu", gelu, gelued, 1e-5, 4e-7);
}

void check_attention(const Kernels &table, const Many<int64_t> &lengths, int64_t dim, int64_t heads, int64_t kv_heads,
                     bool causal) {
  Many<int64_t> starts{0};
  for (int64_t length : lengths) starts.push_back(starts.back() + length);
  const int64_t tokens = starts.back(), q_width = heads * dim, kv_width = kv_heads * dim;
  const Floats q = draw_floats(tokens * q_width), k = draw_floats(tokens * kv_width), v = draw_floats(tokens * kv_width);
  Floats out(q.size());
  Many<double> expected(q.size());
  const float scale = 3.0f / std::sqrt(float(dim));
  for (size_t s = 0; s + 1 < starts.size(); ++s)
    for (int64_t row = starts[s]; row < starts[s + 1]; ++row)
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t kv = head / (heads / kv_heads) * dim, last = causal ? row + 1 : starts[s + 1];
        Many<double> weights;
        double total = 0;
        for (int64_t key = starts[s]; key < last; ++key) {
          double score = 0;
          for (int64_t i = 0; i < dim; ++i)
            score += double(q[size_t(row * q_width + head * dim + i)]) * k[size_t(key * kv_width + kv + i)];
          weights.push_back(std::exp(score * scale));
          total += weights.back();
        }
        for (int64_t key = starts[s]; key < last; ++key)
          for (int64_t i = 0; i < dim; ++i)
            expected[size_t(row * q_width + head * dim + i)] +=
                weights[size_t(key - starts[s])] / total * v[size_t(key * kv_width + kv + i)];
      }
  for (int32_t half = 0; half <= int32_t{table.bfloat16}; ++half) {
    const Attention call{q.data(), k.data(), v.data(), q_width, kv_width, out.data(), q_width, starts.data(),
                         int64_t(lengths.size()), 0, tokens, heads, kv_heads, dim, scale, causal, 2, half};
    run("attention", table.attention, call);
    compare("attention", out, expected, 1e-4, half ? 0.03 : 3e-5);
  }
}

void check_maxsim(const Kernels &table, int64_t dim, int64_t tokens, int32_t number) {
  const int64_t panels = (tokens + 31) / 32;
  const Floats query = draw_floats(tokens * dim);
  Floats queries(size_t(panels * dim * 32)), scores(size_t(3 * panels * 32));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < dim; ++i) queries[size_t((t / 32 * dim + i) * 32 + t % 32)] = query[size_t(t * dim + i)];
  const int64_t lengths[] = {1, 13, 31};
  Many<Stored> documents;
  Many<Many<int8_t>> bytes;
  Many<const void *> pointers;
  for (int64_t length : lengths) {
    documents.push_back(draw_stored(length * dim, number == kInt8 ? int32_t{kFloat32} : number));
    bytes.push_back(draw_many<int8_t>(length * dim, -127, 127));
    if (number == kInt8) documents.back().read.assign(bytes.back().begin(), bytes.back().end());
  }
  for (size_t d = 0; d < 3; ++d)
    pointers.push_back(number == kInt8 ? static_cast<const void *>(bytes[d].data()) : documents[d].data());
  run("maxsim", table.maxsim, MaxSim{queries.data(), panels, dim, pointers.data(), lengths, 3, scores.data(), number, 2});
  Many<double> found, expected;
  for (size_t d = 0; d < 3; ++d)
    for (int64_t t = 0; t < tokens; ++t) {
      double best = -HUGE_VAL;
      for (int64_t row = 0; row < lengths[d]; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < dim; ++i) sum += double(query[size_t(t * dim + i)]) * documents[d].read[size_t(row * dim + i)];
        best = std::fmax(best, sum);
      }
      expected.push_back(best);
      found.push_back(scores[d * size_t(panels * 32) + size_t(t)]);
    }
  compare("maxsim", found, expected, 1e-5, 1e-4);
}

struct DrawnAxis {
  Many<int64_t> starts;
  Many<int16_t> weights;
  Axis axis;

  // Weights are those of a filter: positive and negative, their sum about 2^precision.
  DrawnAxis(int64_t inputs, int64_t outputs, int64_t taps) {
    constexpr int64_t kPrecision = 14;
    for (int64_t o = 0; o < outputs; ++o) {
      starts.push_back(std::min(o * inputs / outputs, inputs - 1));
      const int64_t reach = std::min(taps, inputs - starts.back());
      for (int64_t t = 0; t < taps; ++t)
        weights.push_back(t < reach ? int16_t(draw_in(-3000, 6000 + 32000 / taps)) : int16_t(0));
    }
    axis = Axis{starts.data(), weights.data(), inputs, outputs, taps, kPrecision};
  }
  int64_t apply(int64_t o, const uint8_t *in, int64_t step) const {
    int64_t sum = int64_t{1} << (axis.precision - 1);
    for (int64_t t = 0; t < axis.taps; ++t)
      if (weights[size_t(o * axis.taps + t)] != 0) sum += weights[size_t(o * axis.taps + t)] * in[(starts[size_t(o)] + t) * step];
    return std::min<int64_t>(std::max<int64_t>(sum >> axis.precision, 0), 255);
  }
};

void check_resize(const Kernels &table, int64_t channels, int64_t taps, bool in_columns, bool in_rows) {
  const int64_t height = 23, width = 41;
  const DrawnAxis columns(width, in_columns ? 29 : width, taps), rows(height, in_rows ? 17 : height, taps);
  const Many<uint8_t> in = draw_many<uint8_t>(height * width * channels, 0, 255);
  const int64_t out_width = columns.axis.outputs * channels;
  Many<uint8_t> out(size_t(rows.axis.outputs * out_width)), wide(size_t(height * out_width)), expected(out.size());
  for (int64_t row = 0; row < height; ++row)
    for (int64_t i = 0; i < out_width; ++i) {
      const uint8_t *from = in.data() + row * width * channels + i % channels;
      wide[size_t(row * out_width + i)] =
          uint8_t(in_columns ? columns.apply(i / channels, from, channels) : from[i / channels * channels]);
    }
  for (int64_t row = 0; row < rows.axis.outputs; ++row)
    for (int64_t i = 0; i < out_width; ++i)
      expected[size_t(row * out_width + i)] =
          uint8_t(in_rows ? rows.apply(row, wide.data() + i, out_width) : wide[size_t(row * out_width + i)]);
  const Resize call{in.data(), width * channels, out.data(), channels, columns.axis, rows.axis, in_columns, in_rows, 2, 0};
  run("resize", table.resize, call);
  compare("resize", out, expected, 0, 0);
}

void check_patchify(const Kernels &table, int32_t patch) {
  const int32_t merge = 2, frames = 2;
  const int64_t tall = 3, across = 2, width = across * merge * patch, tokens = tall * across;
  const Many<uint8_t> pixels = draw_many<uint8_t>(tall * merge * patch * width * 3, 0, 255);
  const float mean[] = {122.77f, 116.75f, 104.09f}, deviation[] = {68.5f, 66.63f, 70.32f};
  const Many<int64_t> order{5, 0, 3, 2, 1, 4};
  Floats out(size_t(tokens * merge * merge * 3 * frames * patch * patch)), expected;
  for (int64_t token : order)
    for (int64_t place = 0; place < merge * merge; ++place)
      for (int channel = 0; channel < 3; ++channel)
        for (int32_t frame = 0; frame < frames; ++frame)
          for (int64_t i = 0; i < patch * patch; ++i) {
            const int64_t row = (token / across * merge + place / merge) * patch + i / patch;
            const int64_t column = (token % across * merge + place % merge) * patch + i % patch;
            expected.push_back((float(pixels[size_t((row * width + column) * 3 + channel)]) - mean[channel]) / deviation[channel]);
          }
  run("patchify", table.patchify, Patchify{pixels.data(), mean, deviation, order.data(), out.data(), width, tokens, patch, merge, frames, 2});
  compare("patchify", out, expected, 0, 0);
}

void check(const Kernels &table, const Kernels &plain) {
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 13})
    for (int64_t depth : {1, 8, 61})
      for (int64_t columns : {1, 33, 97})
        for (int gated = 0; gated < 2; ++gated) {
          check_int8(table, plain, rows, depth, columns, gated, true, kFloat32);
          check_int8(table, plain, rows, depth, columns, gated, false, kNumbers[(rows + depth + columns) % 3]);
        }
  check_int8(table, plain, 9, 1027, 65, false, true, kFloat32);
  for (int64_t rows : {1, 5, 13})
    for (int64_t depth : {1, 8, 61, 200})
      for (int64_t columns : {1, 33, 97})
        for (int gated = 0; gated < 2; ++gated) check_bfloat16(table, rows, depth, columns, gated);
  for (int64_t width : {1, 3, 64, 65, 150})
    for (int kind = 0; kind < 4; ++kind) check_rows(table, 5, width, kind & 1, kind & 2);
  for (int32_t number : kNumbers)
    for (int64_t rows : {1, 5, 13})
      for (int64_t depth : {1, 7, 150})
        for (int64_t columns : {3, 64, 81}) check_floats(table, rows, depth, columns, number);
  check_elements(table);
  for (int64_t dim : {2, 20, 64, 130})
    for (int causal = 0; causal < 2; ++causal) {
      check_attention(table, {1, 50, 7}, dim, 4, 2, causal);
      check_attention(table, {150}, dim, 3, 3, causal);
    }
  for (int32_t number : {kFloat32, kFloat16, kInt8})
    for (int64_t dim : {1, 30, 128}) check_maxsim(table, dim, 37, number);
  for (int64_t channels : {1, 3, 4})
    for (int64_t taps : {2, 4, 6, 12})
      for (int axes = 1; axes < 4; ++axes) check_resize(table, channels, taps, axes & 1, axes & 2);
  for (int32_t patch : {1, 5, 14, 16, 17}) check_patchify(table, patch);
}

}  // namespace

// With an argument a kernel does nothing, so that a check which finds no mistake
// is found out.
int main(int count, char **) {
  const Kernels &plain = *level(0).kernels;
  bool all = true;
  for (int i = 0; i < kLevels; ++i) {
    const Level one = level(i);
    std::printf("%s ", one.name);
    failed = false;
    if (one.kernels == nullptr) {
      std::printf("not here: %s\n", one.problem);
      continue;
    }
    Kernels table = *one.kernels;
    if (count > 1) table.gelu = [](const Activation &) { return kDone; };
    check(table, plain);
    if (!failed) std::puts("ok");
    all &= !failed;
  }
  return all ? 0 : 1;
}
