// Memory of the threads of one kernel.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace trine {

// `floats` for each of `threads`, on cache lines; untouched pages cost nothing.
class Scratch {
 public:
  Scratch(int threads, int64_t floats)
      : stride_((floats + 15) / 16 * 16),
        memory_(static_cast<float *>(_mm_malloc(threads * stride_ * sizeof(float), 64))) {}
  ~Scratch() { _mm_free(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  float *of(int thread) const { return memory_ + thread * stride_; }

 private:
  const int64_t stride_;
  float *const memory_;
};

}  // namespace trine
