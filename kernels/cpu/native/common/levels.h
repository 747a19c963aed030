// The instruction sets that kernels were written for, from any processor's to the most special.
#pragma once

#include "table.h"

namespace trine {

struct Level {
  const char *name;
  const char *problem;      // why it cannot be used here, a clause; null if it can
  const Kernels *kernels;   // null where there is a problem
};

#if defined(__aarch64__)
constexpr int kLevels = 4;
#else
constexpr int kLevels = 6;
#endif

// Of level `index`, 0 to kLevels - 1, of this machine's processors: later ones are faster where they can be used.
Level level(int index);

}  // namespace trine
