#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace trine {
namespace {

// How long a thread stays on its core for the next kernel: longer than Python takes between two.
constexpr auto kPatience = std::chrono::microseconds(80);

// Tells the core that this thread only waits.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Stays on the core until `ready`; returns false if that takes too long.
template <class Ready>
bool spin_until(const Ready &ready) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Sleeps until `awake` is notified under `mutex` and `ready` is true.
template <class Ready>
void sleep_until(const Ready &ready, std::mutex &mutex, std::condition_variable &awake,
                 std::atomic<int> &sleepers) {
  std::unique_lock<std::mutex> lock(mutex);
  ++sleepers;
  awake.wait(lock, ready);
  --sleepers;
}

// `threads` - 1 workers beside the caller. Those that are awake take part in a round: one that other
// work keeps from its core is not waited for unless it has an item in hand, for else every round, of
// which a small run has hundreds, would take a turn of the scheduler.
class Pool {
 public:
  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; ++i) std::thread([this, i] { work(i); }).detach();
    } catch (const std::system_error &) {
      // The system gives no more threads, or no memory for their stacks: those that there are do it.
    } catch (const std::bad_alloc &) {
    }
  }

  bool take() { return busy_.try_lock(); }
  void give_back() { busy_.unlock(); }

  void run(int64_t items, Item body, const void *context) {
    // Nobody is inside, so nobody reads these.
    body_ = body;
    context_ = context;
    items_ = items;
    next_.store(0, std::memory_order_relaxed);
    state_.store(state_.load() + 3 * kOpen);  // the next round, open
    wake(sleeping_workers_, round_begins_);
    take_items(0);
    state_.fetch_and(~kOpen);
    const auto empty = [this] { return (state_.load() & kInside) == 0; };
    if (!spin_until(empty)) sleep_until(empty, mutex_, round_ended_, sleeping_callers_);
  }

 private:
  // The state's lowest bits count the workers inside a round, a bit says whether more may come, and
  // the rest is the number of the round.
  static constexpr uint64_t kOpen = uint64_t{1} << 15, kInside = kOpen - 1;

  void work(int thread) {
    uint64_t joined = 0, state = 0;
    const auto open = [&] {
      state = state_.load();
      return (state & kOpen) != 0 && round(state) != joined;
    };
    for (;;) {
      if (spin_until(open)) {
        // Fails if the round was closed, or another worker came or left: then look again.
        if (!state_.compare_exchange_strong(state, state + 1)) continue;
        joined = round(state);
        take_items(thread);
        if ((state_.fetch_sub(1) & (kOpen | kInside)) == 1) wake(sleeping_callers_, round_ended_);
      } else {
        // A round that is closed before the thread has its core still says that more will come.
        const uint64_t before = round(state);
        sleep_until([&] { return open() || round(state) != before; }, mutex_, round_begins_,
                    sleeping_workers_);
      }
    }
  }

  static uint64_t round(uint64_t state) { return state / (2 * kOpen); }

  void take_items(int thread) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < items_;)
      body_(context_, i, thread);
  }

  void wake(std::atomic<int> &sleepers, std::condition_variable &awake) {
    // Who is about to sleep holds the mutex while it looks at the condition for the last time, so
    // passing through the mutex leaves none behind.
    { std::lock_guard<std::mutex> lock(mutex_); }
    if (sleepers.load() > 0) awake.notify_all();
  }

  Item body_ = nullptr;
  const void *context_ = nullptr;
  int64_t items_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> state_{0};
  std::atomic<int> sleeping_workers_{0}, sleeping_callers_{0};
  std::mutex busy_, mutex_;
  std::condition_variable round_begins_, round_ended_;
};

constexpr int kMostThreads = 256;

// The pools of one process, by their number of threads, each made at its first use. Pools are never
// taken down: their threads may outlive all else in the process.
struct Pools {
  const pid_t owner = getpid();
  std::mutex mutex;
  Pool *by_threads[kMostThreads + 1] = {};
};

// A fork leaves the threads behind, and the mutexes as they are, held by threads that are no more: the
// new process gets pools of its own, whatever the others were doing. Null where there is no memory.
Pools *pools_of_process() {
  static std::atomic<Pools *> current{nullptr};
  Pools *known = current.load();
  if (known != nullptr && known->owner == getpid()) return known;
  Pools *made = new (std::nothrow) Pools;
  if (made == nullptr || current.compare_exchange_strong(known, made)) return made;
  delete made;  // another thread was first
  return known;
}

// Null where there is no memory for one.
Pool *pool_of(int threads) {
  Pools *pools = pools_of_process();
  if (pools == nullptr) return nullptr;
  std::lock_guard<std::mutex> lock(pools->mutex);
  Pool *&pool = pools->by_threads[threads];
  if (pool == nullptr) pool = new (std::nothrow) Pool(threads);
  return pool;
}

}  // namespace

void run_items(int threads, int64_t items, Item body, const void *context) {
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads > 1 && items > 1) {
    Pool *pool = pool_of(threads);
    if (pool != nullptr && pool->take()) {
      pool->run(items, body, context);
      pool->give_back();
      return;
    }
  }
  for (int64_t i = 0; i < items; ++i) body(context, i, 0);
}

}  // namespace trine
