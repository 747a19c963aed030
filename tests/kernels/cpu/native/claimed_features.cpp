// In place of common/features.cpp: a processor that is taken for one with AVX-VNNI, or with AMX, too.
#include "../../../../kernels/cpu/native/common/features.h"

namespace trine {

Features find_features() {
  Features f{};
  f.avx2 = f.avx_vnni = f.avx_saved = true;
#if defined(TRINE_CLAIM_AMX)
  f.avx512_vnni = f.avx512_bf16 = f.amx = f.avx512_saved = f.tiles_saved = true;
#endif
  return f;
}

bool has_amx_int8() { return false; }

}  // namespace trine
