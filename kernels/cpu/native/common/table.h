// The kernels of one instruction set, as functions.
#pragma once

#include "calls.h"

namespace trine {

struct Kernels {
  bool bfloat16;  // whether attention can multiply in bfloat16
  Status (*pack_int8)(const PackInt8 &);
  Status (*prepare_rows)(const Rows &);
  Status (*linear_int8)(const LinearInt8 &);
  Status (*linear_float)(const LinearFloat &);
  Status (*project)(const Project &);
  Status (*rotate)(const Rotate &);
  Status (*swiglu)(const Activation &);
  Status (*gelu)(const Activation &);
  Status (*attention)(const Attention &);
  Status (*pack_bfloat16)(const PackBFloat16 &);
  Status (*linear_bfloat16)(const LinearBFloat16 &);
  Status (*maxsim)(const MaxSim &);
  Status (*resize)(const Resize &);
  Status (*patchify)(const Patchify &);
};

// Each is there if its folder was compiled (TRINE_WITH_…), and may be called only where levels.cpp says so.
namespace portable { const Kernels &kernels(); }
namespace avx2 { const Kernels &kernels(); }
namespace avx_vnni { const Kernels &kernels(); }
namespace avx512 { const Kernels &kernels(); }
namespace avx512_bf16 { const Kernels &kernels(); }
namespace amx { const Kernels &kernels(); }
namespace neon { const Kernels &kernels(); }
namespace neon_dotprod { const Kernels &kernels(); }
namespace neon_i8mm { const Kernels &kernels(); }

}  // namespace trine
