// Runs emulated kernels. A launch has `residency` blocks in flight, beside its carriers (cuda/carriers.cuh). Whenever threads wait, which warp of which block goes on is
// drawn from a seeded generator. A launch in which everybody waits for good fails, as does one whose threads wait at
// different barriers.
//
// For the thread sanitizer a fiber is a thread and a switch orders nothing: only barriers, shuffles and publications do. This
// file is the machine itself and is not instrumented; it is one file, long as it is, because fibers, warps, blocks and their
// waits know each other's insides.
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator.h"
#include "stack.h"
#undef threadIdx
#undef blockIdx
#undef gridDim

// Of the sanitizers, where a program has one.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void *fiber);
__attribute__((weak)) void *__tsan_get_current_fiber();
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile *address, size_t size);
}

EmulatedThread *emulated_self = nullptr;

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kExchanged = 64;
constexpr int kPoison = 0x3f;  // as float 0.75, as double 0.0005: NaN would be taken for an overflow, and be healed
constexpr int kWarp = 32;
constexpr unsigned kNoSync = 1;  // switching fibers orders nothing between them

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  unsigned below(unsigned n) { return unsigned(bits() % n); }

 private:
  uint64_t state_;
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
  EmulatedThread self;  // first: emulated_self points here
  void *stack = nullptr, *pointer = nullptr, *tsan = nullptr, *fake = nullptr;
  State state = State::kDone;
  unsigned exchanges = 0;
  struct Block *block = nullptr;
};

struct Warp {
  int waiting = 0;
  alignas(16) char given[2][kWarp][kExchanged];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  int waiting = 0, done = 0, any[2] = {0, 0};
  unsigned barriers = 0;
  std::unique_ptr<char[]> shared;
  size_t shared_bytes = 0;
};

// Stacks are used again: system calls for each would take longer than many a launch.
std::vector<void *> spare_stacks;

void *take_stack() {
  if (spare_stacks.empty()) {
    void *stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) std::abort();
    return stack;
  }
  void *stack = spare_stacks.back();
  spare_stacks.pop_back();
  return stack;
}

using Kernel = void (*)(const void *params);

class Launch {
 public:
  Launch(Kernel kernel, const void *params, unsigned blocks, unsigned threads, unsigned residency, uint64_t seed)
      : kernel_(kernel), params_(params), blocks_(blocks), threads_(threads), random_(seed) {
    resident_.resize(residency < blocks ? residency : blocks);
    for (Block &block : resident_) {
      block.fibers = std::vector<Fiber>(threads);
      block.warps = std::vector<Warp>(threads / kWarp);
      for (Fiber &fiber : block.fibers) {
        fiber.stack = take_stack();
        fiber.block = &block;
      }
    }
  }
  ~Launch() {
    for (Block &block : resident_)
      for (Fiber &fiber : block.fibers) {
        if (fiber.tsan) __tsan_destroy_fiber(fiber.tsan);
        if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(fiber.stack, kStackBytes);
        spare_stacks.push_back(fiber.stack);
      }
  }

  // "" or why it failed.
  const char *run() {
    Launch *outer = current_;
    current_ = this;
    if (__tsan_get_current_fiber) tsan_ = __tsan_get_current_fiber();
    unsigned next = 0;
    std::vector<Block *> live;
    for (Block &block : resident_) start(block, next++), live.push_back(&block);
    const char *wrong = "";
    int idle = 0;
    while (!live.empty() && !*wrong) {
      const unsigned chosen = random_.below(unsigned(live.size()));
      Block &block = *live[chosen];
      progress_ = false;
      run_warp(block, random_.below(unsigned(block.warps.size())));
      if (block.done == int(threads_)) {
        if (next < blocks_)
          start(block, next++);
        else
          live.erase(live.begin() + chosen);
        progress_ = true;
      }
      idle = progress_ ? 0 : idle + 1;
      if (idle > int(20000 + 400 * live.size() * block.warps.size())) wrong = "every thread waits: a deadlock";
      if (*wrong_) wrong = wrong_;
    }
    current_ = outer;
    return wrong;
  }

  static Launch &current() { return *current_; }
  static Fiber &fiber() { return *reinterpret_cast<Fiber *>(emulated_self); }

  void progress() { progress_ = true; }
  void fault(const char *what) { wrong_ = what; }
  int coin() { return int(random_.below(2)); }
  void wait() { pause(); }
  void meet() {
    if (resident_.size() > 1 && random_.below(4) == 0) pause();
  }

  void barrier(int yes, int *any) {
    Fiber &fiber = Launch::fiber();
    Block &block = *fiber.block;
    const unsigned parity = block.barriers % 2;
    block.any[parity] |= yes;
    release(&block.barriers);
    fiber.state = State::kAtBlock;
    if (++block.waiting == int(threads_)) {
      progress_ = true;
      block.waiting = 0;
      block.any[1 - parity] = 0;
      ++block.barriers;
      for (Fiber &other : block.fibers) other.state = State::kReady;
    } else {
      if (block.done) wrong_ = "some threads of a block wait at a barrier that others will not reach";
      pause();
    }
    acquire(&block.barriers);
    *any = block.any[parity];
  }

  void warp_barrier() {
    Fiber &fiber = Launch::fiber();
    Block &block = *fiber.block;
    const unsigned number = fiber.self.thread.x / kWarp;
    Warp &warp = block.warps[number];
    release(&warp);
    fiber.state = State::kAtWarp;
    if (++warp.waiting == kWarp) {
      progress_ = true;
      warp.waiting = 0;
      for (int i = 0; i < kWarp; ++i) block.fibers[number * kWarp + i].state = State::kReady;
    } else {
      pause();
    }
    acquire(&warp);
  }

  void exchange(const void *given, void *taken, size_t size, int from) {
    Fiber &fiber = Launch::fiber();
    Warp &warp = fiber.block->warps[fiber.self.thread.x / kWarp];
    auto &slots = warp.given[fiber.exchanges++ % 2];
    if (size > kExchanged) std::abort();
    std::memcpy(slots[fiber.self.thread.x % kWarp], given, size);
    warp_barrier();
    std::memcpy(taken, slots[from], size);
  }

  void *shared(size_t size) {
    Block &block = *Launch::fiber().block;
    if (!block.shared) {
      block.shared.reset(new char[size]);
      std::memset(block.shared.get(), kPoison, size);
      block.shared_bytes = size;
    }
    if (block.shared_bytes != size) std::abort();
    release(&block.shared);
    acquire(&block.shared);
    return block.shared.get();
  }

 private:
  static void acquire(void *at) {
    if (__tsan_acquire) __tsan_acquire(at);
  }
  static void release(void *at) {
    if (__tsan_release) __tsan_release(at);
  }

  void start(Block &block, unsigned number) {
    block.waiting = block.done = 0;
    block.barriers = 0;
    block.any[0] = block.any[1] = 0;
    // To the thread sanitizer, giving memory back is a write to it, and what orders the blocks that had it must not be this.
    if (__tsan_release && block.shared) retired_.push_back(std::move(block.shared));
    block.shared.reset();
    for (unsigned i = 0; i < threads_; ++i) {
      Fiber &fiber = block.fibers[i];
      fiber.self.thread = {i}, fiber.self.block = {number}, fiber.self.grid = {blocks_};
      fiber.self.copies = 0;
      fiber.state = State::kReady;
      fiber.exchanges = 0;
      void **top = reinterpret_cast<void **>(static_cast<char *>(fiber.stack) + kStackBytes) - kFrame;
      std::memset(static_cast<void *>(top), 0, kFrame * sizeof *top);
      top[kReturn] = reinterpret_cast<void *>(&Launch::main);
      fiber.pointer = top;
      fiber.fake = nullptr;
      if (__tsan_create_fiber) {
        if (fiber.tsan) __tsan_destroy_fiber(fiber.tsan);
        fiber.tsan = __tsan_create_fiber(0);
      }
    }
    for (Warp &warp : block.warps) warp.waiting = 0;
    // What was written before a launch is there for all its threads.
    release(this);
  }

  // Runs the ready threads of a warp until each waits.
  void run_warp(Block &block, unsigned number) {
    Fiber *fibers = &block.fibers[number * kWarp];
    const unsigned first = random_.below(kWarp);
    for (bool again = true; again && !*wrong_;) {
      again = false;
      paused_ = false;
      for (unsigned i = 0; i < kWarp; ++i) {
        Fiber &fiber = fibers[(first + i) % kWarp];
        if (fiber.state != State::kReady) continue;
        enter(fiber);
        again = again || !paused_;
      }
      // Whoever was released by the last of them goes on now, or later.
      again = again && random_.below(4) != 0;
      for (unsigned i = 0; i < kWarp && again; ++i)
        if (fibers[i].state == State::kReady)
          break;
        else if (i + 1 == kWarp)
          again = false;
    }
  }

  void enter(Fiber &fiber) {
    emulated_self = &fiber.self;
    void *fake = nullptr;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake, fiber.stack, kStackBytes);
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber.tsan, kNoSync);
    emulated_switch(&scheduler_, fiber.pointer);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  }

  // From a fiber back to the scheduler.
  void pause(bool for_good = false) {
    Fiber &fiber = Launch::fiber();
    paused_ = fiber.state == State::kReady;
    if (__sanitizer_start_switch_fiber)
      __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake, bottom_, size_);
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(tsan_, kNoSync);
    emulated_switch(&fiber.pointer, scheduler_);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fiber.fake, &bottom_, &size_);
  }

  [[noreturn]] static void main() {
    Launch &launch = current();
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &launch.bottom_, &launch.size_);
    launch.acquire(&launch);
    launch.kernel_(launch.params_);
    Fiber &fiber = Launch::fiber();
    fiber.state = State::kDone;
    launch.progress_ = true;
    ++fiber.block->done;
    if (fiber.block->waiting) launch.wrong_ = "some threads of a block ended while others wait at a barrier";
    launch.release(&launch.kernel_);
    launch.pause(true);
    std::abort();
  }

  Kernel kernel_;
  const void *params_;
  unsigned blocks_, threads_;
  Random random_;
  std::vector<Block> resident_;
  std::vector<std::unique_ptr<char[]>> retired_;
  void *scheduler_ = nullptr, *tsan_ = nullptr;
  const void *bottom_ = nullptr;
  size_t size_ = 0;
  bool progress_ = false, paused_ = false;
  const char *wrong_ = "";
  static Launch *current_;

 public:
  void finished() { acquire(&kernel_); }
};

Launch *Launch::current_ = nullptr;

std::mutex launching;
uint64_t seed = 1;
unsigned residency = 3;

}  // namespace

extern "C" {

EmulatedThread *emulated_find_self() { return emulated_self; }
void emulated_barrier() {
  int any;
  Launch::current().barrier(0, &any);
}
int emulated_barrier_or(int yes) {
  int any;
  Launch::current().barrier(yes, &any);
  return any;
}
void emulated_warp_barrier() { Launch::current().warp_barrier(); }
void emulated_exchange(const void *given, void *taken, size_t size, int from) {
  Launch::current().exchange(given, taken, size, from);
}
void *emulated_shared(size_t size) { return Launch::current().shared(size); }
void emulated_wait() { Launch::current().wait(); }
void emulated_meet() { Launch::current().meet(); }
void emulated_progress() { Launch::current().progress(); }
void emulated_fault(const char *what) { Launch::current().fault(what); }
int emulated_coin() { return Launch::current().coin(); }

// How the launches from now on are scheduled.
void emulated_schedule(uint64_t new_seed, unsigned blocks_in_flight) {
  std::lock_guard<std::mutex> lock(launching);
  seed = new_seed;
  residency = blocks_in_flight ? blocks_in_flight : 1;
}
// "" or why it failed.
const char *emulated_launch(void *kernel, const void *params, unsigned blocks, unsigned threads, unsigned carriers) {
  std::lock_guard<std::mutex> lock(launching);
  if (!blocks || !threads || threads % kWarp) return "a launch has whole warps";
  Launch launch(reinterpret_cast<Kernel>(kernel), params, blocks, threads, residency + carriers, seed++);
  const char *wrong = launch.run();
  launch.finished();
  return wrong;
}
}
