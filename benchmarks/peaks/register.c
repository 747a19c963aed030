/* Arithmetic that never leaves the registers, and memory that is only read: no product of matrices
   can be faster. Prints one JSON object: int8 and float32 operations a second, bytes read a second.

   gcc -O2 -march=native -fopenmp register.c -o register && ./register THREADS */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHAINS 16   /* independent sums: more than latency times issue width */
#define STEPS 20000000
#define TRIES 5
#define BYTES (512u << 20)

#if defined(__AVX512VNNI__)
#define LANES 64
static void int8_chains(void) {
  __m512i sum[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_si512();
  for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
}
static void float_chains(void) {
  __m512 sum[CHAINS], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_ps();
  for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
}
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
