// What Python calls. Nothing is thrown across: each kernel answers with a Status.
#include "calls.h"
#include "features.h"
#include "levels.h"

#include <new>

#define TRINE_API extern "C" __attribute__((visibility("default")))

namespace trine {
namespace {

// Calls a kernel of `table`. Kernels are compiled without exceptions; what the library below them may
// still throw, a lock or a thread, ends here.
template <class Arguments>
int32_t call(Status (*kernel)(const Arguments &), const Arguments *arguments) noexcept {
  try {
    return kernel(*arguments);
  } catch (const std::bad_alloc &) {
    return kNoMemory;
  } catch (...) {
    return kFailed;
  }
}

}  // namespace

// Raised with every change of a structure or a layout that Python shares.
TRINE_API int32_t trine_abi_version() { return 6; }

// Bytes of the structures, in the order of `STRUCTURES` in structures.py; then 0.
TRINE_API const int64_t *trine_structure_sizes() {
  static const int64_t sizes[] = {
      sizeof(Side),    sizeof(LinearInt8),  sizeof(PackInt8), sizeof(Rows),
      sizeof(Rotate),  sizeof(Activation),  sizeof(LinearFloat), sizeof(Project),
      sizeof(Attention), sizeof(MaxSim),    sizeof(Resize),   sizeof(Patchify),
      sizeof(PackBFloat16), sizeof(LinearBFloat16), 0};
  return sizes;
}

TRINE_API int32_t trine_level_count() { return kLevels; }
TRINE_API const char *trine_level_name(int32_t index) { return level(index).name; }
TRINE_API const char *trine_level_problem(int32_t index) { return level(index).problem; }
TRINE_API const void *trine_level_kernels(int32_t index) { return level(index).kernels; }

TRINE_API int32_t trine_has_amx_int8() { return has_amx_int8(); }

TRINE_API int32_t trine_multiplies_bfloat16(const Kernels *table) { return table->bfloat16; }

#define TRINE_KERNEL(name, Arguments)                                                  \
  TRINE_API int32_t trine_##name(const Kernels *table, const Arguments *arguments) {   \
    return call(table->name, arguments);                                               \
  }

TRINE_KERNEL(pack_int8, PackInt8)
TRINE_KERNEL(prepare_rows, Rows)
TRINE_KERNEL(linear_int8, LinearInt8)
TRINE_KERNEL(linear_float, LinearFloat)
TRINE_KERNEL(project, Project)
TRINE_KERNEL(rotate, Rotate)
TRINE_KERNEL(swiglu, Activation)
TRINE_KERNEL(gelu, Activation)
TRINE_KERNEL(attention, Attention)
TRINE_KERNEL(pack_bfloat16, PackBFloat16)
TRINE_KERNEL(linear_bfloat16, LinearBFloat16)
TRINE_KERNEL(maxsim, MaxSim)
TRINE_KERNEL(resize, Resize)
TRINE_KERNEL(patchify, Patchify)

}  // namespace trine
