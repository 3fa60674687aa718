#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "ieee.h"
#include "scanlib.h"

namespace scanlib {
namespace {

constexpr int kMaxThreads = 256;

class Pool {
 public:
  void run(int threads, void (*work)(void *), void *context) {
    if (pthread_mutex_trylock(&busy_) != 0) return work(context);  // another caller's job: do this one alone
    pthread_mutex_lock(&mutex_);
    while (workers_ < threads - 1 && start_worker()) ++workers_;
    work_ = work;
    context_ = context;
    open_ = threads - 1;
    pthread_mutex_unlock(&mutex_);
    pthread_cond_broadcast(&wake_);

    work(context);

    pthread_mutex_lock(&mutex_);
    open_ = 0;  // a worker that has not joined by now has nothing left to do
    while (active_ > 0) pthread_cond_wait(&done_, &mutex_);
    pthread_mutex_unlock(&mutex_);
    pthread_mutex_unlock(&busy_);
  }

 private:
  bool start_worker() {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, &Pool::worker_main, this) != 0) return false;
    pthread_detach(thread);
    return true;
  }

  static void *worker_main(void *self) {
    static_cast<Pool *>(self)->serve();
    return nullptr;
  }

  [[noreturn]] void serve() {
    IeeeArithmetic ieee;  // a new thread has its maker's settings
    pthread_mutex_lock(&mutex_);
    for (;;) {
      while (open_ == 0) pthread_cond_wait(&wake_, &mutex_);
      --open_;
      ++active_;
      pthread_mutex_unlock(&mutex_);
      work_(context_);
      pthread_mutex_lock(&mutex_);
      if (--active_ == 0) pthread_cond_signal(&done_);
    }
  }

  pthread_mutex_t busy_ = PTHREAD_MUTEX_INITIALIZER;   // held by the caller whose job runs
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;  // guards all below
  pthread_cond_t wake_ = PTHREAD_COND_INITIALIZER;
  pthread_cond_t done_ = PTHREAD_COND_INITIALIZER;
  int workers_ = 0;
  int open_ = 0;    // places left in the job
  int active_ = 0;  // workers in the job
  void (*work_)(void *) = nullptr;
  void *context_ = nullptr;
};

std::atomic<Pool *> g_pool{nullptr};

std::atomic<scanlib_openmp> g_openmp{nullptr};

// Threads do not survive a fork and locks may be held by those that did not: the child starts a pool of its own.
void forget_threads() {
  g_pool.store(nullptr);
  g_openmp.store(nullptr);
}
void watch_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_threads);
  (void)registered;
}

// A job for a team of OpenMP threads, of whom the first few to come take part.
struct TeamJob {
  void (*work)(void *);
  void *context;
  std::atomic<int> places;

  static void join(void *self) {
    TeamJob &job = *static_cast<TeamJob *>(self);
    if (job.places.fetch_sub(1) <= 0) return;
    IeeeArithmetic ieee;
    job.work(job.context);
  }
};

Pool *pool() {
  Pool *current = g_pool.load();
  if (current) return current;
  watch_forks();
  Pool *fresh = new (std::nothrow) Pool;  // never deleted: its threads may outlive every static
  if (!fresh || g_pool.compare_exchange_strong(current, fresh)) return fresh;
  delete fresh;
  return current;
}

int positive(const char *variable) {
  const char *text = std::getenv(variable);
  int value = text ? std::atoi(text) : 0;  // of a list such as "4,2" the first number
  return value > kMaxThreads ? kMaxThreads : value;
}

int count_threads() {
  if (int value = positive("SCANLIB_NUM_THREADS"); value > 0) return value;
  if (int value = positive("OMP_NUM_THREADS"); value > 0) return value;
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) {
    int count = CPU_COUNT(&cores);
    return count > kMaxThreads ? kMaxThreads : count;
  }
#endif
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count < 1 ? 1 : count > kMaxThreads ? kMaxThreads : int(count);
}

}  // namespace

int default_threads() {
  static const int threads = count_threads();
  return threads;
}

int useful_threads(int asked, int64_t items) {
  return int(std::max<int64_t>(1, std::min<int64_t>(asked > 0 ? asked : default_threads(), items)));
}

void run_on_threads(int threads, bool openmp, void (*work)(void *), void *context) {
  if (const scanlib_openmp parallel = openmp && threads > 1 ? g_openmp.load() : nullptr) {
    // The whole team, of whatever size its owner gave it: to change that would end and start threads.
    TeamJob job{work, context, {threads}};
    return parallel(TeamJob::join, &job, 0, 0);
  }
  Pool *shared = threads > 1 ? pool() : nullptr;
  if (shared)
    shared->run(threads > kMaxThreads ? kMaxThreads : threads, work, context);
  else
    work(context);
}

}  // namespace scanlib

extern "C" int scanlib_cpu_threads(void) { return scanlib::default_threads(); }

extern "C" void scanlib_cpu_set_openmp(scanlib_openmp parallel) {
  scanlib::watch_forks();
  scanlib::g_openmp.store(parallel);
}
