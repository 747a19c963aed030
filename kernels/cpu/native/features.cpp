// What the processor can do. Compiled for any x86-64, unlike the kernels.
#include <cstdint>

// Raised with every change of a structure or a layout that Python shares.
extern "C" __attribute__((visibility("default"))) int32_t trine_abi_version() { return 1; }

extern "C" __attribute__((visibility("default"))) int32_t trine_has_avx512_vnni() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
