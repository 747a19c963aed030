// What the processor can do and the operating system lets programs use.
#pragma once

namespace trine {

// Instructions of the processor, whether or not the operating system saves the registers they use.
struct Features {
  bool avx2;         // with fma and f16c
  bool avx_vnni;     // with avx2: 8-bit dot products on 256 bits
  bool avx512_vnni;  // with avx2 and avx512 f, bw, dq, vl: 8-bit dot products on 512 bits
  bool avx512_vbmi;  // permutations of bytes
  bool avx512_bf16;  // with avx512_vnni
  bool amx;          // tiles, and products of 8 bits and of bfloat16 on them
  bool avx_saved, avx512_saved;  // what the operating system saves when threads change places
  bool tiles_saved;  // and that it lets this process use
  bool neon_dotprod;  // of ARM: 8-bit dot products
  bool neon_i8mm;     // of ARM: 8-bit products of small matrices
};

Features find_features();

// Tiles for 8-bit products: the processor has them, and Linux lets this process use them.
bool has_amx_int8();

}  // namespace trine
