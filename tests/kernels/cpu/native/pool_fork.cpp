// The pool in a process that is forked while other threads use it, at any moment of theirs.
#include "../../../../kernels/cpu/native/common/pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

namespace {

bool compute(int threads) {
  std::vector<long> seen(8);
  trine::common::parallel_for(threads, 8, [&](int64_t item, int) { ++seen[static_cast<size_t>(item)]; });
  for (const long count : seen)
    if (count != 1) return false;
  return true;
}

}  // namespace

int main() {
  std::atomic<bool> working{true};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      while (working) compute(2);
    });
  int failed = 0;
  for (int round = 0; round < 300 && failed == 0; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);  // instead of waiting for a thread that is no more
      _exit(compute(2) && compute(3) ? 0 : 1);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) ++failed;
  }
  working = false;
  for (std::thread &caller : callers) caller.join();
  if (failed == 0) std::puts("every child computed");
  return failed;
}
