// A small pool of threads: one job at a time, safe after fork, no exceptions.
#pragma once

namespace scanlib {

// How many threads a call may use by default: SCANLIB_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use.
int default_threads();

// Calls work(context) on the calling thread and on up to threads - 1 others, and returns when all are done. The work must
// share itself out: fewer calls than asked for are always possible, down to the calling thread's alone (the pool is busy with
// another caller's job, or threads cannot be had).
void run_on_threads(int threads, void (*work)(void *), void *context);

}  // namespace scanlib
