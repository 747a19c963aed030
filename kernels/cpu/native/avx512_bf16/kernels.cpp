// The kernels of AVX-512 with VNNI, attention in bfloat16 where that is good enough.
#include "../avx512/simd.h"
// Vectors first.
#include "../common/table.h"
#include "bfloat16.h"

namespace trine::TRINE_ISA {

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = avx512::kernels();
    mixed.bfloat16 = true;
    mixed.attention = attention<BFloat16>;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
