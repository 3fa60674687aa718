/* scanlib: the C interface of libscanlib.
 *
 * The first-order linear recurrence h_t = a_t * h_{t-1} + x_t along one axis of strided arrays, and its reverse
 * gradient. Plain C: no exception crosses this boundary, every function that can fail returns a scanlib_status, and
 * nothing here needs Python, PyTorch, jaxlib or CUDA.
 *
 * A call takes two steps. scanlib_problem_init() turns shapes, strides and dtypes into a scanlib_problem, which
 * holds no pointers and may be kept and used again from any thread. scanlib_cpu_run() then runs it on data in the
 * CPU's memory, scanlib_cuda_run() on data of a GPU.
 */
#ifndef SCANLIB_INCLUDED
#define SCANLIB_INCLUDED

#include <stddef.h>
#include <stdint.h>

#define SCANLIB_ABI_VERSION 6
#define SCANLIB_MAX_DIMS 64
#define SCANLIB_MAX_OUTER (SCANLIB_MAX_DIMS - 1)

#if defined(_WIN32)
#define SCANLIB_API __declspec(dllexport)
#else
#define SCANLIB_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum scanlib_dtype {
  SCANLIB_ABSENT = 0, /* the operand is not given */
  SCANLIB_F16 = 1,
  SCANLIB_BF16 = 2,
  SCANLIB_F32 = 3,
  SCANLIB_F64 = 4,
  SCANLIB_C64 = 5,
  SCANLIB_C128 = 6,
  SCANLIB_BOOL = 7, /* of masks alone: one byte, true where it is not 0 */
  SCANLIB_I32 = 8,  /* of offsets alone */
  SCANLIB_I64 = 9
} scanlib_dtype;

/* How a pass, forward or backward, uses an operand. */
enum {
  SCANLIB_UNUSED = 0,
  SCANLIB_READ = 1,
  SCANLIB_WRITTEN = 2,
  SCANLIB_OPTIONAL = 4 /* with one of the two: it may be absent */
};

/* What an operand is to the recurrence: ROW(NAME, name, is a state, use in forward, use in backward, use in forward and in backward
 * of a gated recurrence). States have no time axis, but where there are OFFSETS one of segments in its place. scanlib/roles.py is
 * the same table.
 *
 * RESET and OFFSETS say where a sequence starts inside the time axis; at most one of them is given. Where RESET is true the state
 * that enters that step, in the direction of the recurrence, is nothing: h_t = x_t whatever came before, and grad_a is 0. OFFSETS
 * has segments + 1 numbers 0 = o_0 <= o_1 <= ... = the extent of time, and strides of 0 on all axes but time: segment i is the
 * steps from o_i up to o_{i+1}, perhaps none, starts from its own H0 and has its own FINAL. Reversed, it starts at its last step. */
#define SCANLIB_ROLE_TABLE(ROW)                                                                                     \
  ROW(A, a, 0, SCANLIB_READ, SCANLIB_READ, SCANLIB_READ, SCANLIB_READ)                                              \
  ROW(X, x, 0, SCANLIB_READ, SCANLIB_UNUSED, SCANLIB_UNUSED, SCANLIB_UNUSED)                                        \
  ROW(H, h, 0, SCANLIB_WRITTEN, SCANLIB_READ, SCANLIB_WRITTEN, SCANLIB_READ)                                        \
  ROW(H0, h0, 1, SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL, \
      SCANLIB_READ | SCANLIB_OPTIONAL)                                                                              \
  ROW(FINAL, final, 1, SCANLIB_WRITTEN | SCANLIB_OPTIONAL, SCANLIB_UNUSED, SCANLIB_WRITTEN | SCANLIB_OPTIONAL,      \
      SCANLIB_UNUSED)                                                                                               \
  ROW(GRAD_H, grad_h, 0, SCANLIB_UNUSED, SCANLIB_READ, SCANLIB_UNUSED, SCANLIB_READ)                                \
  ROW(GRAD_FINAL, grad_final, 1, SCANLIB_UNUSED, SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_UNUSED,                   \
      SCANLIB_READ | SCANLIB_OPTIONAL)                                                                              \
  ROW(GRAD_A, grad_a, 0, SCANLIB_UNUSED, SCANLIB_WRITTEN, SCANLIB_UNUSED, SCANLIB_WRITTEN)                          \
  ROW(GRAD_X, grad_x, 0, SCANLIB_UNUSED, SCANLIB_WRITTEN, SCANLIB_UNUSED, SCANLIB_UNUSED)                           \
  ROW(GRAD_H0, grad_h0, 1, SCANLIB_UNUSED, SCANLIB_WRITTEN | SCANLIB_OPTIONAL, SCANLIB_UNUSED,                      \
      SCANLIB_WRITTEN | SCANLIB_OPTIONAL)                                                                           \
  ROW(Y, y, 0, SCANLIB_UNUSED, SCANLIB_UNUSED, SCANLIB_WRITTEN | SCANLIB_OPTIONAL, SCANLIB_UNUSED)                  \
  ROW(RESET, reset, 0, SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL,                            \
      SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL)                                             \
  ROW(OFFSETS, offsets, 0, SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL,                        \
      SCANLIB_READ | SCANLIB_OPTIONAL, SCANLIB_READ | SCANLIB_OPTIONAL)

typedef enum scanlib_role {
#define SCANLIB_ROLE_NUMBER(NAME, ...) SCANLIB_##NAME,
  SCANLIB_ROLE_TABLE(SCANLIB_ROLE_NUMBER)
#undef SCANLIB_ROLE_NUMBER
      SCANLIB_ROLES
} scanlib_role;

enum {
  SCANLIB_REVERSE = 1,   /* h_t = a_t * h_{t+1} + x_t */
  SCANLIB_CONJUGATE = 2, /* backward conjugates a and h (NumPy's and torch's convention; JAX's does not) */
  SCANLIB_OPENMP = 4     /* on the CPU, run on the threads of scanlib_cpu_set_openmp() */
};

typedef enum scanlib_status {
  SCANLIB_OK = 0,
  SCANLIB_E_ARGUMENT = 1, /* a null pointer, an unknown dtype, a negative extent, an axis out of range, ... */
  SCANLIB_E_OFFSETS = 2,  /* OFFSETS do not begin at 0, decrease, or do not end at the extent of time: on a CPU */
  SCANLIB_E_ALIGNMENT =
      3, /* an address or stride is no multiple of the element's size: on a GPU, and where there are gates */
  SCANLIB_E_OVERFLOW = 4, /* extents and strides that no 64-bit address space holds */
  SCANLIB_E_MEMORY = 5,   /* scratch memory could not be allocated */
  SCANLIB_E_NO_GPU = 6,   /* there is no CUDA driver, or it finds no GPU */
  SCANLIB_E_COMPILER = 7, /* no compiler for the CUDA kernels was set, or what it needs is not installed */
  SCANLIB_E_COMPILE = 8,  /* a CUDA kernel does not compile */
  SCANLIB_E_CUDA = 9      /* the CUDA driver refused a call */
} scanlib_status;

/* How one operand lies in memory, as the caller sees it. `strides` counts bytes, one for each axis of the broadcast shape, 0
 * where the operand is broadcast; for states the entry at the time axis is ignored, or goes from segment to segment. */
typedef struct scanlib_operand {
  int32_t dtype; /* scanlib_dtype */
  int32_t reserved;
  const int64_t *strides;
} scanlib_operand;

/* What a gated recurrence is: gates, recurrence and output in one pass over memory, as recurrent layers have them.
 *
 *   h_t = f_t * h_{t-1} + i_t * z_t,   f = sigmoid(column), i = sigmoid(column) or 1 - f, z = candidate(column)
 *
 * The columns, before any activation, lie side by side in rows, one row for each step of each sequence: those of step t of
 * sequence (o, i) start at ((o * time + t) * inner + i) * row, and each gate has `width` neighbouring columns. They are the
 * operand A, and their gradient is GRAD_A, of which the gates' columns are written and no others. All other operands are dense
 * (outer, time, inner, width), states without time or with segments in its place, RESET without width. H has the states that are
 * read from, Y the output where that is another, and GRAD_H is the gradient of the output. Where RESET is not 0 a step takes
 * nothing from the one before, as if f were 0, and the state before it is read as 0; i = 1 - f is what its column says. */
typedef enum scanlib_candidate {
  SCANLIB_IDENTITY = 0,
  SCANLIB_TANH = 1,
  SCANLIB_ELU = 2,
  SCANLIB_POSITIVE = 3, /* v + 1/2, or sigmoid(v) where v is negative */
  SCANLIB_CANDIDATES = 4
} scanlib_candidate;

typedef enum scanlib_reading {
  SCANLIB_AFTER = 0,  /* the output is h: the state after each step */
  SCANLIB_BEFORE = 1, /* the output is h, and that the state before each step */
  SCANLIB_GATED = 2,  /* the output is y = o * h, o = sigmoid(column), h the state after each step */
  SCANLIB_READINGS = 3
} scanlib_reading;

typedef struct scanlib_gates {
  int32_t candidate;
  int32_t reading;
  int32_t complement; /* where not 0, f = 1 - sigmoid(column), to full precision */
  int32_t reserved;
  int64_t outer, time, inner, width;
  int64_t segments; /* where there are OFFSETS */
  int64_t row;      /* elements from one row to the next */
  /* Where each gate's columns start in a row. at_input -1: i = 1 - f. at_output matters where the reading is SCANLIB_GATED. */
  int64_t at_decay, at_input, at_output, at_candidate;
} scanlib_gates;

/* Where the coefficients and inputs of a recurrence come from. */
typedef enum scanlib_source {
  SCANLIB_OPERANDS = 0, /* A and X */
  SCANLIB_COLUMNS = 1   /* gates */
} scanlib_source;

/* An axis after merging: its extent, and the stride of each operand in bytes. */
typedef struct scanlib_axis {
  int64_t extent;
  int64_t stride[SCANLIB_ROLES];
} scanlib_axis;

/* The numbers by which work is cut for a GPU: CudaTuning in native/cuda_plan.h says what each is. 0: as the problem wants. Which
 * sums are made first depends on them, and so do last bits. */
typedef struct scanlib_tuning {
  int64_t row_threads, column_threads, look_back_threads;
  int64_t run_bytes, backward_run_bytes;
  int64_t bundle, resident;
  int64_t enough_groups, many_lanes;
} scanlib_tuning;

/* The canonical problem: independent recurrences of `time.extent` steps, one for each index (outer..., inner). */
typedef struct scanlib_problem {
  int32_t abi_version;
  int32_t flags;
  int32_t threads; /* at most so many threads; 0: the library's default. Set by the caller, never alters bits */
  int32_t outer_rank;
  int32_t source; /* scanlib_source */
  int32_t reserved;
  int64_t holder_offset; /* where not 0, the pointers passed to a call are addresses of objects that hold the data
                               pointer so many bytes from their start (a NumPy array does). Set by the caller */
  int64_t segments;      /* where there are OFFSETS */
  int32_t dtype[SCANLIB_ROLES]; /* scanlib_dtype */
  scanlib_gates gates;          /* of a gated recurrence; else not set */
  scanlib_tuning tuning;        /* set by the caller, for tests and measurements */
  scanlib_axis time, inner;
  scanlib_axis outer[SCANLIB_MAX_OUTER]; /* far to near; those from outer_rank on are not set */
} scanlib_problem;

/* Fills *problem: one of a forward pass, or where GRAD_H is given, of a backward pass. `operands` has SCANLIB_ROLES entries;
 * `segments` matters where OFFSETS is one of them.
 * GRAD_A may have stride 0 along axes of extent > 1: its values are then summed along them, in an order that depends on the
 * problem alone. No other output may. */
SCANLIB_API int scanlib_problem_init(scanlib_problem *problem, int32_t flags, int32_t ndim, const int64_t *shape,
                                     int32_t axis, int64_t segments, const scanlib_operand *operands);

/* The same for a gated recurrence with operands of one dtype: SCANLIB_F32 or SCANLIB_F64, on a GPU also SCANLIB_F16 or
 * SCANLIB_BF16. `given` has SCANLIB_ROLES entries, not 0 where there is such an operand, and of OFFSETS its dtype; Y is there
 * exactly where the reading is SCANLIB_GATED. `flags`: 0 or SCANLIB_OPENMP. */
SCANLIB_API int scanlib_gated_problem_init(scanlib_problem *problem, int32_t flags, int32_t dtype,
                                           const scanlib_gates *gates, const int32_t *given);

/* Runs the pass. `pointers` are those of the operands, indexed by scanlib_role up to the last that the problem has; those of
 * absent operands are not looked at. `h` may be `x` itself; no other output may overlap an operand. An output is written
 * completely or, when the status is not SCANLIB_OK, not at all. */
SCANLIB_API int scanlib_cpu_run(const scanlib_problem *problem, const void *const *pointers);

/* Writes one line that says which CPU kernel runs the problem and how its work is cut; returns the length it needs. */
SCANLIB_API size_t scanlib_cpu_describe(const scanlib_problem *problem, char *buffer, size_t size);

/* ---- On a GPU. The same problems; pointers are addresses on the device, or of objects that hold such addresses.
 *
 * Work is put on `stream`, a CUstream or cudaStream_t (NULL: the default stream of the current context), in its context.
 * A call allocates nothing, waits for nothing and may be captured in a graph. libcuda is looked for at the first call.
 * Where a status is SCANLIB_E_NO_GPU or a larger one, scanlib_cuda_last_error() says more. */

/* The device memory a call needs beside its operands, aligned to 16 bytes: the same on every GPU, often 0. */
SCANLIB_API int scanlib_cuda_scratch_bytes(const scanlib_problem *problem, int64_t *bytes);
/* As scanlib_cpu_run(). */
SCANLIB_API int scanlib_cuda_run(const scanlib_problem *problem, void *stream, void *scratch,
                                 const void *const *pointers);
/* One line that says which CUDA kernel runs the problem; returns the length it needs. Needs no GPU. */
SCANLIB_API size_t scanlib_cuda_describe(const scanlib_problem *problem, char *buffer, size_t size);
/* The programs the problem needs, one a line, each as the preprocessor definitions that the compiler is called with;
 * returns the length it needs. Needs no GPU. */
SCANLIB_API size_t scanlib_cuda_programs(const scanlib_problem *problem, char *buffer, size_t size);

/* Makes a cubin of the source in cuda/ for an architecture (10 * major + minor), with `definitions` such as
 * "-DNAME=VALUE -DOTHER=1". Called where a program is met for the first time, from any thread, with no lock held. *image must
 * stay valid until the same thread calls again. Any status but SCANLIB_OK fails the call; *image may then be a text. */
typedef int (*scanlib_cuda_compiler)(const char *definitions, int architecture, const void **image, size_t *size);
SCANLIB_API void scanlib_cuda_set_compiler(scanlib_cuda_compiler compiler);
/* What the last call of this thread that failed found missing or was refused; "" if nothing. */
SCANLIB_API const char *scanlib_cuda_last_error(void);
/* For tests: loads another library in place of libcuda.so.1 (NULL: that one) and forgets all programs. No other call of
 * these functions may be running. */
SCANLIB_API int scanlib_cuda_use_driver(const char *path);

SCANLIB_API const char *scanlib_status_string(int status);
SCANLIB_API int scanlib_abi_version(void);
SCANLIB_API const char *scanlib_version(void);
/* The instruction set that run-time dispatch chose: "baseline", "avx2", "avx512" or "neon". */
SCANLIB_API const char *scanlib_cpu_isa(void);
/* For tests: chooses an instruction set by name; SCANLIB_E_ARGUMENT where this machine lacks it. */
SCANLIB_API int scanlib_cpu_select_isa(const char *name);
/* The default number of threads: SCANLIB_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use. */
SCANLIB_API int scanlib_cpu_threads(void);
/* For callers whose own loops run on an OpenMP runtime of this process: its entry point GOMP_parallel, which libgomp and LLVM's
 * libomp have. Problems with SCANLIB_OPENMP then run on its threads, as threads of a second pool would compete with those for
 * the same cores. NULL, before the first call, and in a child of fork(): on the library's own. */
typedef void (*scanlib_openmp)(void (*function)(void *), void *context, unsigned threads, unsigned flags);
SCANLIB_API void scanlib_cpu_set_openmp(scanlib_openmp parallel);

#ifdef __cplusplus
}
#endif
#endif
