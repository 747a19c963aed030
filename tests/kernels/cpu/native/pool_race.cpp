// The pool under ThreadSanitizer: callers at once, items of all sizes, threads that come and go to sleep.
#include "../../../../kernels/cpu/native/common/pool.h"

#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

int main() {
  std::vector<long> wrong(3);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < wrong.size(); ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 400; ++round) {
        const int64_t items = 1 + round % 37;
        std::vector<long> seen(static_cast<size_t>(items));
        trine::common::parallel_for(4, items, [&](int64_t item, int) { ++seen[static_cast<size_t>(item)]; });
        for (const long count : seen) wrong[caller] += count != 1;
        // Longer than the pool's threads stay awake.
        if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  for (std::thread &caller : callers) caller.join();
  for (const long count : wrong)
    if (count != 0) return 1;
  std::puts("every item once");
  return 0;
}
