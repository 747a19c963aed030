#include "scratch.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace trine {

void *allocate(int64_t bytes) {
  constexpr int64_t kLine = 64;
  if (bytes < 0 || bytes > INT64_MAX - kLine) return nullptr;
  void *memory = nullptr;
  if (posix_memalign(&memory, kLine, static_cast<size_t>(bytes + kLine)) != 0) return nullptr;
#if defined(__linux__)
  // Large pages, as numpy asks for: half the time of the first touch.
  constexpr int64_t kLarge = int64_t{4} << 20, kPage = 4096;
  if (bytes >= kLarge) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
    const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes);
    madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
  return memory;
}

void release(void *memory) { free(memory); }

}  // namespace trine
