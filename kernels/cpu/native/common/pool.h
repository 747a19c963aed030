// Threads that wait between kernels, shortly on the core and then asleep.
//
// OpenMP's would do, but its threads spin for milliseconds after each kernel, on cores that a server
// needs for its other work, and it must be found on the machine where a wheel is installed.
#pragma once

#include <cstdint>

namespace trine {

using Item = void (*)(const void *context, int64_t item, int thread);

// Calls `body` for items 0 to `items` - 1 on up to `threads` threads, each numbered below `threads`, and
// returns when all are done. Items are handed out one by one, in order. Called by several threads at
// once, the first has the pool and the others work alone. A thread that cannot be started is done
// without. `body` throws nothing.
void run_items(int threads, int64_t items, Item body, const void *context);

namespace TRINE_ISA {

// body(item, thread); the templates belong to the instruction set whose kernels they are made for.
template <class Body>
void parallel_for(int threads, int64_t items, const Body &body) {
  run_items(
      threads, items,
      [](const void *context, int64_t item, int thread) {
        (*static_cast<const Body *>(context))(item, thread);
      },
      &body);
}

// The same for `rows` rows in blocks, where one row is too little for one item.
template <class Body>
void parallel_rows(int threads, int64_t rows, const Body &body) {
  const int64_t wanted = 4 * static_cast<int64_t>(threads);
  const int64_t blocks = rows < wanted ? rows : wanted;
  parallel_for(threads, blocks, [&](int64_t block, int thread) {
    for (int64_t row = rows * block / blocks; row < rows * (block + 1) / blocks; ++row)
      body(row, thread);
  });
}

}  // namespace TRINE_ISA
}  // namespace trine
