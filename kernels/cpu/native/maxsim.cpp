// Late-interaction scores: for each token of a query its best match among a document's, summed.
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace trine {
namespace {

constexpr int kRows = 12;          // of a document at once: 12 x 2 sums, 2 query vectors in registers
constexpr int kQueryVectors = 2;   // 32 tokens of a query side by side
constexpr int kQueryPanel = kQueryVectors * kLanes;
constexpr int kInt8 = 3;           // beside the formats of `Number`

struct MaxSim {
  const float *queries;          // [panels, dim, 32]: tokens side by side, 0 in unused lanes
  int64_t panels;
  int64_t dim;
  const void *const *documents;  // [documents], rows packed, each [lengths[d], dim]
  const int64_t *lengths;        // [documents], at least 1
  int64_t count;
  float *scores;                 // [documents, panels, 32]: the best match of each token
  int32_t number;                // how documents are stored
  int32_t threads;
};

// `count` rows as float32, packed behind one another.
void widen(const MaxSim &a, int64_t document, int64_t first, int64_t count, float *out) {
  const void *base = a.documents[document];
  const int64_t begin = first * a.dim;
  for (int64_t i = 0; i < count * a.dim; i += kLanes) {
    const __mmask16 m = lane_mask(count * a.dim - i);
    __m512 value;
    if (a.number == kFloat16) {
      value = load_as_float<kFloat16>(base, begin + i, m);
    } else {
      value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
          _mm_maskz_loadu_epi8(m, static_cast<const int8_t *>(base) + begin + i)));
    }
    _mm512_mask_storeu_ps(out + i, m, value);
  }
}

// Raises `best` to the products of a panel of query tokens with `rows` rows. As many bytes from `next`
// on are brought into the cache meanwhile, a line at a time: in one go they would wait for each other.
template <int rows>
inline void match(const float *query, const float *document, int64_t dim, const char *next,
                  __m512 *best) {
  __m512 sums[rows][kQueryVectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kQueryVectors; ++v) sums[r][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < dim; ++k) {
    _mm_prefetch(next + k * rows * static_cast<int64_t>(sizeof(float)), _MM_HINT_T0);
    __m512 q[kQueryVectors];
    for (int v = 0; v < kQueryVectors; ++v) q[v] = _mm512_load_ps(query + k * kQueryPanel + v * kLanes);
    for (int r = 0; r < rows; ++r) {
      const __m512 d = _mm512_set1_ps(document[r * dim + k]);
      for (int v = 0; v < kQueryVectors; ++v) sums[r][v] = _mm512_fmadd_ps(q[v], d, sums[r][v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kQueryVectors; ++v) best[v] = _mm512_max_ps(best[v], sums[r][v]);
}

void match_document(const MaxSim &a, int64_t document, float *buffer) {
  float *scores = a.scores + document * a.panels * kQueryPanel;
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < a.panels * kQueryPanel; i += kLanes) _mm512_storeu_ps(scores + i, lowest);
  for (int64_t first = 0; first < a.lengths[document]; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, a.lengths[document] - first);
    const float *rows = static_cast<const float *>(a.documents[document]) + first * a.dim;
    if (a.number != kFloat32) {
      widen(a, document, first, count, buffer);
      rows = buffer;
    }
    // What lies behind a document's last rows may belong to another; a prefetch does not mind.
    const char *next = reinterpret_cast<const char *>(rows + count * a.dim);
    for (int64_t panel = 0; panel < a.panels; ++panel) {
      const float *query = a.queries + panel * a.dim * kQueryPanel;
      __m512 best[kQueryVectors];
      for (int v = 0; v < kQueryVectors; ++v)
        best[v] = _mm512_loadu_ps(scores + panel * kQueryPanel + v * kLanes);
      if (count == kRows)
        match<kRows>(query, rows, a.dim, next, best);
      else
        for (int64_t r = 0; r < count; ++r) match<1>(query, rows + r * a.dim, a.dim, next, best);
      for (int v = 0; v < kQueryVectors; ++v)
        _mm512_storeu_ps(scores + panel * kQueryPanel + v * kLanes, best[v]);
    }
  }
}

}  // namespace

TRINE_API void trine_maxsim(const MaxSim *arguments) {
  const MaxSim &a = *arguments;
  // One document an item: long and short ones share out evenly.
  const int64_t room = a.number == kFloat32 ? 0 : kRows * a.dim + kLanes;
  std::vector<float> buffers(a.threads * room);
  parallel_for(a.threads, a.count, [&](int64_t document, int thread) {
    match_document(a, document, buffers.data() + thread * room);
  });
}

}  // namespace trine
