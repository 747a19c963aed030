#include "levels.h"

#include "features.h"

// Defined by setup.py for each folder that was compiled; null stands for those that were not.
#if defined(TRINE_WITH_AVX2)
#define TRINE_AVX2 avx2::kernels
#else
#define TRINE_AVX2 nullptr
#endif
#if defined(TRINE_WITH_AVX_VNNI)
#define TRINE_AVX_VNNI avx_vnni::kernels
#else
#define TRINE_AVX_VNNI nullptr
#endif
#if defined(TRINE_WITH_AVX512)
#define TRINE_AVX512 avx512::kernels
#else
#define TRINE_AVX512 nullptr
#endif
#if defined(TRINE_WITH_AVX512_BF16)
#define TRINE_AVX512_BF16 avx512_bf16::kernels
#else
#define TRINE_AVX512_BF16 nullptr
#endif
#if defined(TRINE_WITH_AMX)
#define TRINE_AMX amx::kernels
#else
#define TRINE_AMX nullptr
#endif
#if defined(TRINE_WITH_NEON)
#define TRINE_NEON neon::kernels
#else
#define TRINE_NEON nullptr
#endif
#if defined(TRINE_WITH_NEON_DOTPROD)
#define TRINE_NEON_DOTPROD neon_dotprod::kernels
#else
#define TRINE_NEON_DOTPROD nullptr
#endif
#if defined(TRINE_WITH_NEON_I8MM)
#define TRINE_NEON_I8MM neon_i8mm::kernels
#else
#define TRINE_NEON_I8MM nullptr
#endif

namespace trine {
namespace {

#if !defined(__aarch64__)
const char *const kNoVnni = "this processor has no AVX-512 VNNI";
const char *const kUnsavedAvx = "the operating system does not save AVX registers";
const char *const kUnsavedAvx512 = "the operating system does not save AVX-512 registers";
#endif

Level made(const char *name, const char *problem, const Kernels &(*kernels)()) {
  if (problem == nullptr && kernels == nullptr)
    problem = "the compiler that built these kernels did not know its instructions";
  return Level{name, problem, problem == nullptr ? &kernels() : nullptr};
}

[[maybe_unused]] const char *problem(bool there, const char *missing, bool saved, const char *unsaved) {
  return !there ? missing : saved ? nullptr : unsaved;
}

}  // namespace

#if defined(__aarch64__)

Level level(int index) {
  const Features f = find_features();
  switch (index) {
    case 1: return made("neon", nullptr, TRINE_NEON);
    case 2:
      return made("neon_dotprod", f.neon_dotprod ? nullptr : "this processor has no 8-bit dot products",
                  TRINE_NEON_DOTPROD);
    case 3:
      return made("neon_i8mm", f.neon_i8mm ? nullptr : "this processor has no 8-bit matrix products (i8mm)",
                  TRINE_NEON_I8MM);
    default: return made("portable", nullptr, portable::kernels);
  }
}

#else

Level level(int index) {
  const Features f = find_features();
  switch (index) {
    case 1:
      return made("avx2",
                  problem(f.avx2, "this processor has no AVX2 with FMA and F16C", f.avx_saved, kUnsavedAvx),
                  TRINE_AVX2);
    case 2:
      return made("avx_vnni",
                  problem(f.avx_vnni, "this processor has no AVX-VNNI", f.avx_saved, kUnsavedAvx),
                  TRINE_AVX_VNNI);
    case 3:
      return made("avx512",
                  problem(f.avx512_vnni, kNoVnni, f.avx512_saved, kUnsavedAvx512),
                  TRINE_AVX512);
    case 4:
      return made("avx512_bf16",
                  problem(f.avx512_bf16,
                          f.avx512_vnni ? "this processor has no AVX-512 BF16" : kNoVnni,
                          f.avx512_saved, kUnsavedAvx512),
                  TRINE_AVX512_BF16);
    case 5:
      return made("amx",
                  problem(f.amx && f.avx512_bf16, "this processor has no AMX for 8 bits and bfloat16",
                          f.avx512_saved && f.tiles_saved,
                          "the operating system does not let this process use AMX tiles"),
                  TRINE_AMX);
    default: return made("portable", nullptr, portable::kernels);
  }
}

#endif

}  // namespace trine
