// What the processor can do. Compiled for any x86-64, unlike the kernels.
#include <cpuid.h>

#include <cstdint>

// Raised with every change of a structure or a layout that Python shares.
extern "C" __attribute__((visibility("default"))) int32_t trine_abi_version() { return 4; }

extern "C" __attribute__((visibility("default"))) int32_t trine_has_avx512_vnni() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

extern "C" __attribute__((visibility("default"))) int32_t trine_has_avx512_bf16() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") ? 1 : 0;
}

// Tiles for 8-bit products, which these kernels do not use.
extern "C" __attribute__((visibility("default"))) int32_t trine_has_amx_int8() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1);
}
