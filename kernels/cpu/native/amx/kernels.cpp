// The kernels of AMX: products of 8 bits and of bfloat16 on tiles, all else as AVX-512 with BF16 has it.
#include "../avx512/simd.h"
// Vectors first.
#include "../common/table.h"
#include "products.h"

namespace trine::TRINE_ISA {

const Kernels &kernels() {
  static const Kernels table = [] {
    Kernels mixed = avx512_bf16::kernels();
    mixed.linear_int8 = linear_int8;
    mixed.linear_bfloat16 = linear_bfloat16_on_tiles;
    return mixed;
  }();
  return table;
}

}  // namespace trine::TRINE_ISA
