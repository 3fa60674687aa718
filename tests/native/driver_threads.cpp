// The driver's modes in which several threads call, another runtime's threads run a call, or a process forks.
#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "driver.h"
#include "gated_check.h"

using namespace scanlib_tests;

namespace {

// Threads that share a problem and its inputs, and each has an output of its own.
void shared_problem() {
  const int64_t shape[] = {2, 100003}, strides[] = {100003 * sizeof(float), sizeof(float)};
  scanlib_operand operands[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) operands[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  require(scanlib_problem_init(&problem, 0, 2, shape, 1, 0, operands) == SCANLIB_OK, "a plain problem is taken");
  problem.threads = 3;
  Random random(5);
  std::vector<float> a(size_t(2 * shape[1])), x(a.size());
  for (size_t i = 0; i < a.size(); ++i) a[i] = float(random.unit()), x[i] = float(random.unit());
  std::vector<std::vector<float>> h(5, std::vector<float>(a.size()));
  std::vector<std::thread> callers;
  for (std::vector<float> &own : h)
    callers.emplace_back([&] {
      for (int round = 0; round < 4; ++round)
        require(forward(&problem, a.data(), x.data(), nullptr, own.data(), nullptr) == SCANLIB_OK, "it runs");
    });
  for (std::thread &caller : callers) caller.join();
  for (const std::vector<float> &own : h) require(own == h[0], "every caller gets the same bits");
}

}  // namespace

void scanlib_tests::concurrent() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller)
    callers.emplace_back([caller] {
      const std::vector<int64_t> shapes[] = {{2, 70001}, {3, 9001, 11}, {257, 601}};
      for (int round = 0; round < 3; ++round)
        for (bool backward : {false, true}) {
          Case c = plain(shapes[(caller + round) % 3], 1, caller % 2 ? SCANLIB_F32 : SCANLIB_C64, backward);
          c.threads = 1 + caller;
          c.seed = uint64_t(caller + 100 * round);
          run(c);
        }
    });
  for (std::thread &caller : callers) caller.join();
  shared_problem();
}

namespace {

// A runtime like OpenMP's, whose team is never as large as was asked for.
std::atomic<int> teams{0};
template <int Size>
void team(void (*function)(void *), void *context, unsigned, unsigned) {
  ++teams;
  std::vector<std::thread> others;
  for (int i = 1; i < Size; ++i) others.emplace_back(function, context);
  function(context);
  for (std::thread &other : others) other.join();
}

}  // namespace

void scanlib_tests::openmp() {
  for (scanlib_openmp runtime : {team<1>, team<2>, team<9>}) {
    scanlib_cpu_set_openmp(runtime);
    teams = 0;
    for (bool backward : {false, true}) {
      Case c = plain({2, 70001}, 1, SCANLIB_F32, backward);
      c.flags = SCANLIB_OPENMP;
      c.threads = 3;
      run(c);
    }
    require(teams > 0, "a call runs on the threads it was given");
    for (uint64_t seed = 1; seed < 20; ++seed) {
      Random random(seed);
      require(check_gates(random).empty(), "a gated recurrence is right on threads it was given");
    }
    teams = 0;
    run(plain({2, 70001}, 1, SCANLIB_F32, false));
    require(teams == 0, "a call without the flag runs on the library's own");
  }
  scanlib_cpu_set_openmp(nullptr);
}

namespace {

// How many threads this process has; 2 where that cannot be known.
int running_threads() {
  DIR *tasks = opendir("/proc/self/task");
  if (!tasks) return 2;
  int count = -2;  // "." and ".."
  while (readdir(tasks)) ++count;
  closedir(tasks);
  return count;
}

template <class F>
void in_child(F body) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(kHang);
    failures = 0;
    body();
    _exit(failures ? 1 : 0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a call works in a child of fork()");
}

// A child has none of the threads of the runtime that its parent uses, and may not wait for them.
void fork_beside_openmp() {
  for (scanlib_openmp runtime : {team<1>, team<2>, team<9>}) {
    scanlib_cpu_set_openmp(runtime);
    Case c = plain({2, 70001}, 1, SCANLIB_F32, false);
    c.flags = SCANLIB_OPENMP;
    c.threads = 3;
    run(c);
    teams = 0;
    in_child([&] {
      run(c);
      require(teams == 0, "a child of fork() does not use its parent's runtime");
    });
  }
  scanlib_cpu_set_openmp(nullptr);
}

}  // namespace

// The state of locks and of the thread pool at the moment of fork() must not hang or break a call in the child.
void scanlib_tests::forks() {
  std::atomic<bool> stop{false};
  auto body = [] {
    Case c = plain({2, 100003}, 1, SCANLIB_F32, false);
    c.threads = 3;
    run(c);
  };
  body();
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2; ++caller)
    callers.emplace_back([&] {
      while (!stop) body();
    });
  for (int child = 0; child < 30; ++child) {
    in_child([&] {
      body();
      body();
      require(running_threads() > 1, "a child of fork() has threads of its own");
    });
    if (failures) break;
  }
  stop = true;
  for (std::thread &caller : callers) caller.join();
  fork_beside_openmp();
}
