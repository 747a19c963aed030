/* Arithmetic that never leaves the registers, and memory that is only read: no product of matrices
   can be faster. Prints one JSON object: int8 and float32 operations a second, bytes read a second.

   gcc -O2 -march=native -fopenmp register.c -o register && ./register THREADS */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHAINS 16   /* independent sums, written out in EACH: more than latency times issue width */
#define STEPS 20000000L
#define TRIES 5
#define BYTES (512u << 20)

#if defined(__AVX512VNNI__)
#define LANES 64
/* Written out, since compilers keep arrays of sums in memory and then measure that. */
#define EACH(step) \
  step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") \
  step("8") step("9") step("10") step("11") step("12") step("13") step("14") step("15")
#define ZERO(n) "vpxord %%zmm" n ", %%zmm" n ", %%zmm" n "\n\t"
#define INT8_STEP(n) "vpdpbusd %%zmm17, %%zmm16, %%zmm" n "\n\t"
#define FLOAT_STEP(n) "vfmadd231ps %%zmm17, %%zmm16, %%zmm" n "\n\t"
#define CHAIN_LOOP(name, STEP) \
  static void name(void) { \
    long left = STEPS; \
    __asm__ volatile(EACH(ZERO) ZERO("16") ZERO("17") \
                     "1:\n\t" EACH(STEP) "dec %0\n\tjnz 1b" \
                     : "+r"(left) \
                     : \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", \
                       "xmm17"); \
  }
CHAIN_LOOP(int8_chains, INT8_STEP)
CHAIN_LOOP(float_chains, FLOAT_STEP)
#define FLOATS 16
#else
#error "this processor has no AVX-512 VNNI; the roof is the best product measured instead"
#endif

static double best_of(void (*chains)(void), int threads, double operations) {
  double best = 0;
  for (int i = 0; i < TRIES; i++) {
    double started = omp_get_wtime();
#pragma omp parallel num_threads(threads)
    chains();
    double rate = threads * operations / (omp_get_wtime() - started);
    if (rate > best) best = rate;
  }
  return best;
}

static double read_rate(int threads) {
  char *memory = aligned_alloc(64, BYTES);
  memset(memory, 1, BYTES);
  double best = 0;
  long long total = 0;
  for (int i = 0; i < TRIES; i++) {
    double started = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
      __m512i sum = _mm512_setzero_si512();
#pragma omp for
      for (size_t at = 0; at < BYTES; at += 64)
        sum = _mm512_add_epi64(sum, _mm512_load_si512((const void *)(memory + at)));
      total += _mm512_reduce_add_epi64(sum);
    }
    double rate = BYTES / (omp_get_wtime() - started);
    if (rate > best) best = rate;
  }
  free(memory);
  return total == 42 ? 0 : best;
}

int main(int count, char **words) {
  int threads = count > 1 ? atoi(words[1]) : omp_get_max_threads();
  double int8 = best_of(int8_chains, threads, 2.0 * LANES * CHAINS * STEPS);
  double float32 = best_of(float_chains, threads, 2.0 * FLOATS * CHAINS * STEPS);
  printf("{\"int8\": %.0f, \"float32\": %.0f, \"read\": %.0f}\n", int8, float32, read_rate(threads));
  return 0;
}
