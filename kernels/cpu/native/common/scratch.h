// Memory of the threads of one kernel.
#pragma once

#include <cstdint>

namespace trine {

// Bytes on a cache line, or null where there is no memory; untouched pages cost nothing.
void *allocate(int64_t bytes);
void release(void *memory);

namespace TRINE_ISA {

// `floats` for each of `threads`, on cache lines. False where there was no memory for them.
class Scratch {
 public:
  Scratch(int threads, int64_t floats)
      : stride_((floats + 15) / 16 * 16),
        memory_(static_cast<float *>(allocate(threads * stride_ * static_cast<int64_t>(sizeof(float))))) {}
  ~Scratch() { release(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  explicit operator bool() const { return memory_ != nullptr; }
  float *of(int thread) const { return memory_ + thread * stride_; }

 private:
  const int64_t stride_;
  float *const memory_;
};

}  // namespace TRINE_ISA
}  // namespace trine
