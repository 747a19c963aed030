// In place of common/levels.cpp: the instruction sets of the library that TRINE_LIBRARY names, as Python sees them.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "../../../../kernels/cpu/native/common/levels.h"

namespace trine {
namespace {

template <class Result>
Result call(const char *name, int32_t index) {
  static void *const library = dlopen(std::getenv("TRINE_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  void *const found = library == nullptr ? nullptr : dlsym(library, name);
  if (found == nullptr) {
    std::printf("%s\n", dlerror());
    std::exit(2);
  }
  return reinterpret_cast<Result (*)(int32_t)>(found)(index);
}

}  // namespace

Level level(int index) {
  return Level{call<const char *>("trine_level_name", index), call<const char *>("trine_level_problem", index),
               call<const Kernels *>("trine_level_kernels", index)};
}

}  // namespace trine
