// The kernels of AVX-512 with VNNI and products of bfloat16, attention's where that is good enough.
#include "../avx512/simd.h"
// Vectors first.
#include "../common/table.h"
#include "bfloat16.h"
#include "products.h"

namespace trine::TRINE_ISA {

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = avx512::kernels();
    mixed.bfloat16 = true;
    mixed.attention = attention<BFloat16>;
    mixed.linear_bfloat16 = linear_bfloat16<PairProducts>;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
