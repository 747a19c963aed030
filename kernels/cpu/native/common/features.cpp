#include "features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trine {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros where the processor has no such leaf.
Leaf leaf(unsigned number, unsigned part) {
  Leaf found;
  if (!__get_cpuid_count(number, part, &found.eax, &found.ebx, &found.ecx, &found.edx)) return Leaf{};
  return found;
}

constexpr bool bit(unsigned word, int number) { return (word >> number & 1) != 0; }

// XCR0: the state that the operating system saves; 0 where it uses no XSAVE.
uint64_t saved_state() {
  if (!bit(leaf(1, 0).ecx, 27)) return 0;  // OSXSAVE
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

constexpr uint64_t kAvxState = 0x6;      // SSE, AVX
constexpr uint64_t kAvx512State = 0xE6;  // and masks, upper halves, upper 16 registers
constexpr uint64_t kTileState = uint64_t{3} << 17;  // tile configuration, tile data

// Linux saves tiles only for processes that asked. Asking again is no change.
bool may_use_tiles() {
  if ((saved_state() & kTileState) != kTileState) return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

Features find_features() {
  const uint64_t saved = saved_state();
  const Leaf first = leaf(1, 0), seventh = leaf(7, 0), more = leaf(7, 1);
  Features f{};
  f.avx_saved = (saved & kAvxState) == kAvxState;
  f.avx512_saved = (saved & kAvx512State) == kAvx512State;
  f.avx2 = bit(first.ecx, 28) && bit(first.ecx, 12) && bit(first.ecx, 29) && bit(seventh.ebx, 5);
  f.avx_vnni = f.avx2 && bit(more.eax, 4);
  f.avx512_vnni = f.avx2 && bit(seventh.ebx, 16) && bit(seventh.ebx, 17) && bit(seventh.ebx, 30) &&
                  bit(seventh.ebx, 31) && bit(seventh.ecx, 11);
  f.avx512_vbmi = bit(seventh.ecx, 1);
  f.avx512_bf16 = f.avx512_vnni && bit(more.eax, 5);
  f.amx = bit(seventh.edx, 22) && bit(seventh.edx, 24) && bit(seventh.edx, 25);
  f.tiles_saved = f.amx && may_use_tiles();
  return f;
}

bool has_amx_int8() {
  const Leaf seventh = leaf(7, 0);
  return bit(seventh.edx, 24) && bit(seventh.edx, 25) && may_use_tiles();  // amx-tile, amx-int8
}

}  // namespace trine

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace trine {
namespace {

#if defined(__linux__)

// Of the kernel's interface (asm/hwcap.h), which older headers have not.
constexpr unsigned long kDotProducts = 1ul << 20, kMatrixProducts = 1ul << 13;

bool has_dotprod() { return (getauxval(AT_HWCAP) & kDotProducts) != 0; }
bool has_i8mm() { return (getauxval(AT_HWCAP2) & kMatrixProducts) != 0; }

#elif defined(__APPLE__)

bool has(const char *feature) {
  int answer = 0;
  size_t size = sizeof answer;
  return sysctlbyname(feature, &answer, &size, nullptr, 0) == 0 && answer != 0;
}

bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has("hw.optional.arm.FEAT_I8MM"); }

#else

bool has_dotprod() { return false; }
bool has_i8mm() { return false; }

#endif

}  // namespace

Features find_features() {
  Features f{};
  f.neon_dotprod = has_dotprod();
  f.neon_i8mm = f.neon_dotprod && has_i8mm();
  return f;
}

bool has_amx_int8() { return false; }

}  // namespace trine

#else

namespace trine {

Features find_features() { return Features{}; }
bool has_amx_int8() { return false; }

}  // namespace trine

#endif
