// What the files of this folder give to its table.
#pragma once

#include "simd.h"
// Vectors first.
#include "../common/table.h"
#include "../generic/functions.h"

namespace trine::TRINE_ISA {

Status linear_int8(const LinearInt8 &);
Status resize(const Resize &);
Status patchify(const Patchify &);

}  // namespace trine::TRINE_ISA
