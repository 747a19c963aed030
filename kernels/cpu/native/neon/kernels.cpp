// The kernels of NEON, which every 64-bit ARM processor has.
#include "kernels.h"

#include "../generic/attention.h"
#include "../generic/linear_bfloat16.h"
#include "../generic/linear_float.h"
#include "../generic/maxsim.h"
#include "../generic/pack.h"
#include "../generic/rows.h"

namespace trine::TRINE_ISA {

const Kernels &kernels() {
  static const Kernels table = {
      false,   pack_int8,  prepare_rows, linear_int8,            linear_float, project,
      rotate,  swiglu_all, gelu_all,     attention<Float32Only>,
      pack_bfloat16, linear_bfloat16<Widened>, maxsim, resize, patchify};
  return table;
}

}  // namespace trine::TRINE_ISA
