// In place of common/features.cpp: a processor with AVX2 that is taken for one with AVX-VNNI too.
#include "../../../../kernels/cpu/native/common/features.h"

namespace trine {

Features find_features() {
  Features f{};
  f.avx2 = f.avx_vnni = f.avx_saved = true;
  return f;
}

bool has_amx_int8() { return false; }

}  // namespace trine
