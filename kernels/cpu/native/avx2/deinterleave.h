// Channels of pixels of three bytes, taken apart on vectors of 128 bits: of AVX2, and of what includes it.
#pragma once

#include "../generic/images.h"

namespace trine::TRINE_ISA {

// Bytes of channel c among 16 pixels, from each of the three vectors that hold them.
struct Deinterleaved {
  __m128i shuffle[3][3];
  Deinterleaved() {
    for (int channel = 0; channel < 3; ++channel)
      for (int part = 0; part < 3; ++part) {
        alignas(16) int8_t bytes[16];
        for (int pixel = 0; pixel < 16; ++pixel) {
          const int place = 3 * pixel + channel - 16 * part;
          bytes[pixel] = static_cast<int8_t>(place >= 0 && place < 16 ? place : -1);
        }
        shuffle[channel][part] = _mm_load_si128(reinterpret_cast<const __m128i *>(bytes));
      }
  }

  struct Loaded {
    __m128i part[3];
  };

  Loaded load(const uint8_t *from, int64_t count) const {
    return {{load_bytes(from, count), load_bytes(from + 16, count - 16), load_bytes(from + 32, count - 32)}};
  }

  __m128i channel(const Loaded &loaded, int number) const {
    const __m128i *own = shuffle[number];
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(loaded.part[0], own[0]),
                                     _mm_shuffle_epi8(loaded.part[1], own[1])),
                        _mm_shuffle_epi8(loaded.part[2], own[2]));
  }
};

}  // namespace trine::TRINE_ISA
