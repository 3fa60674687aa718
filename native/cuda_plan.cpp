#include "cuda_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "cuda_cut.h"

namespace scanlib {

namespace {

static_assert(sizeof(Params) <= CudaParams::kBytes && std::is_trivially_copyable<Params>::value,
              "the kernels' argument fits CudaParams");
static_assert(int(kRoles) == int(SCANLIB_ROLES) && int(kH0) == int(SCANLIB_H0) && int(kGradH) == int(SCANLIB_GRAD_H) &&
                  int(kGradA) == int(SCANLIB_GRAD_A) && int(kGradH0) == int(SCANLIB_GRAD_H0) &&
                  int(kY) == int(SCANLIB_Y) && int(kReset) == int(SCANLIB_RESET) &&
                  int(kOffsets) == int(SCANLIB_OFFSETS),
              "cuda/params.h has the roles of scanlib.h");

// Threads that a multiprocessor is to hold.
int resident_threads(const Cut &cut) {
  if (cut.tuning.resident) return std::max(int(cut.tuning.resident), cut.threads);
  // Where there are offsets, elements of 16 bits are held as what is computed in.
  if (cut.value == SCANLIB_C128 || (cut.packed && cut.run == kMostRun)) return 384;
  const bool widened = cut.packed && cut.backward && cut.run == kMostRun / 2;
  // The longest runs, sums in double precision and the gradients of gates need the registers.
  if (cut.value != SCANLIB_F32 || cut.run == kMostRun || cut.sum || (cut.gated && cut.backward) || widened) return 512;
  return cut.by_tickets() || cut.packed ? 640 : 768;
}

void write_options(char *to, size_t size, Kernel kernel, const Cut &cut, int32_t a, int32_t x, int32_t h,
                   int32_t grad_a, int32_t grad_x) {
  std::snprintf(to, size,
                "-DSCANLIB_KERNEL=%d -DSCANLIB_BACKWARD=%d -DSCANLIB_VALUE=%d -DSCANLIB_A=%d -DSCANLIB_X=%d "
                "-DSCANLIB_H=%d -DSCANLIB_GRAD_A=%d -DSCANLIB_GRAD_X=%d -DSCANLIB_LAYOUT=%d -DSCANLIB_THREADS=%d "
                "-DSCANLIB_WIDTH=%d -DSCANLIB_RUN=%d -DSCANLIB_DOWN=%d -DSCANLIB_BUNDLE=%d "
                "-DSCANLIB_CARRIERS=%d -DSCANLIB_SUM=%d -DSCANLIB_RESIDENT=%d",
                kernel, cut.backward, cut.value, a, x, h, grad_a, grad_x, cut.layout, cut.threads, cut.width, cut.run,
                cut.down, cut.bundle, cut.carrier_tiles, cut.sum, resident_threads(cut));
}

// What a program is told of its gates and of where sequences start in it, after all else, and only where it has them.
void write_more_options(char *options, size_t size, const scanlib_problem &p) {
  size_t length = std::strlen(options);
  const scanlib_gates &gates = p.gates;
  if (is_gated(p))
    std::snprintf(options + length, size - length,
                  " -DSCANLIB_SOURCE=%d -DSCANLIB_CANDIDATE=%d -DSCANLIB_READING=%d -DSCANLIB_INPUT=%d",
                  SCANLIB_COLUMNS, gates.candidate, gates.reading, gates.at_input >= 0);
  length = std::strlen(options);
  if (given(p, SCANLIB_RESET) || given(p, SCANLIB_OFFSETS))
    std::snprintf(options + length, size - length, " -DSCANLIB_SEGMENTS=%d", given(p, SCANLIB_OFFSETS) ? 2 : 1);
}

void describe(const Work &work, char *to, size_t size) {
  const auto &[loops, p, cut, parts, room, walks, sums] = work;
  int64_t times = 1;
  for (const CudaLoop &loop : loops) times *= loop.axis.extent;
  char starts[48] = "", repeated[48] = "";
  if (given(p, SCANLIB_RESET)) std::snprintf(starts, sizeof starts, ", with resets");
  if (given(p, SCANLIB_OFFSETS)) std::snprintf(starts, sizeof starts, ", %lld segments", (long long)p.segments);
  if (!loops.empty()) std::snprintf(repeated, sizeof repeated, "; repeated %lld times", (long long)times);
  static const char *const kKernels[] = {"walk", "look-back", "sums"}, *const kLayouts[] = {"columns", "rows"};
  std::snprintf(
      to, size,
      "%s %s over %s%s in %s: %lld sequences of %lld steps in %lld groups of up to %d, %lld tiles of %d steps "
      "each, %d threads%s%s%s",
      cut.backward ? "backward" : "forward", kKernels[cut.kernel], kLayouts[cut.layout], is_gated(p) ? " of gates" : "",
      dtype_name(cut.value), (long long)(lane_count(p) * times), (long long)p.time.extent, (long long)cut.groups,
      cut.width, (long long)cut.tiles, cut.slices() * cut.run, cut.threads, starts,
      parts.needed ? "; grad_a in two stages" : "", repeated);
}

// Whether every 16 bytes of what a warp moves of an operand are neighbours in memory, in rows of a lane's steps, in columns of
// a step's lanes, and whether all are aligned if the first are. Where the steps of a row end inside of 16 bytes, the kernel
// sees to it.
bool in_words(const scanlib_problem &p, const Cut &cut, const Operand &operand) {
  const int64_t size = dtype_size(operand.dtype);
  auto whole = [](int64_t bytes) { return bytes % 16 == 0; };
  bool wide = cut.chunks == 1 || whole(operand.chunk);
  for (int d = 0; d < p.outer_rank; ++d) wide = wide && (p.outer[d].extent == 1 || whole(operand.outer[d]));
  if (cut.layout == kRows)
    return wide && operand.step == (cut.down ? -size : size) && (p.inner.extent == 1 || whole(operand.lane));
  return wide && operand.lane == size && whole(p.inner.extent * size) && (p.time.extent == 1 || whole(operand.step));
}

// Whether all columns of gates that are used are aligned if the first are.
bool gates_in_words(const scanlib_problem &p) {
  const scanlib_gates &g = p.gates;
  bool whole = true;
  for (const int64_t at : {g.at_candidate, g.at_input < 0 ? g.at_decay : g.at_input,
                           g.reading == SCANLIB_GATED ? g.at_output : g.at_decay})
    whole = whole && (at - g.at_decay) * dtype_size(p.dtype[SCANLIB_A]) % 16 == 0;
  return whole;
}

// An address, or an offset from one, and bytes more.
template <class T>
T *moved(T *from, int64_t bytes) {
  return reinterpret_cast<T *>(reinterpret_cast<intptr_t>(from) + bytes);
}

// All of the parameters but the addresses: offsets from the caller's pointers and scratch memory stand in their place.
void fill_offsets(const scanlib_problem &p, const Cut &cut, const Parts &parts, const Room &room, Params *params) {
  ScanParams &scan = params->scan;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!given(p, role)) continue;
    Operand &operand = scan.operand[role];
    const int64_t step = p.time.stride[role];
    // Segments, and what there is one of for each, are numbered as they are walked, like steps.
    const int64_t length = role == SCANLIB_OFFSETS ? p.segments + 1 : is_state(role) ? p.segments : p.time.extent;
    operand.dtype = p.dtype[role];
    if (cut.against && length > 0) operand.first = moved<char>(nullptr, (length - 1) * step);
    operand.step = cut.against ? -step : step;
    operand.lane = p.inner.stride[role];
    operand.chunk = cut.chunks > 1 ? operand.lane * cut.width : 0;
    for (int d = 0; d < p.outer_rank; ++d) operand.outer[d] = p.outer[d].stride[role];
  }
  for (int d = 0; d < kOuterAxes; ++d) scan.extent[d] = d < p.outer_rank ? p.outer[d].extent : 1;
  scan.rank = p.outer_rank;
  scan.conjugate = (p.flags & SCANLIB_CONJUGATE) != 0;
  scan.steps = p.time.extent;
  scan.lanes = p.inner.extent;
  scan.chunks = cut.chunks;
  scan.groups = cut.groups;
  scan.tiles = cut.tiles;
  scan.partials = moved<char>(nullptr, room.partials);
  scan.bundles = moved<char>(nullptr, room.bundles);
  scan.stacks = moved<char>(nullptr, room.stacks);
  scan.ends = moved<char>(nullptr, room.ends);
  scan.tickets = moved<unsigned>(nullptr, room.tickets);
  scan.carrier_tickets = moved<unsigned>(nullptr, room.carrier_tickets);
  scan.counts = moved<unsigned>(nullptr, room.counts);
  scan.stack_counts = moved<unsigned>(nullptr, room.stack_counts);
  scan.carriers = int(cut.carriers());
  scan.team = cut.team;
  scan.segments = {p.segments, cut.against};
  if (parts.needed) {
    Operand &grad_a = scan.operand[SCANLIB_GRAD_A];
    params->reduce = parts.reduce;
    params->reduce.to = parts.down ? nullptr : grad_a.first;
    params->reduce.from = moved<char>(nullptr, room.parts);
    grad_a.first = moved(params->reduce.from, parts.down && p.time.extent > 0 ? (p.time.extent - 1) * parts.time : 0);
    grad_a.dtype = parts.dtype;
    grad_a.step = parts.down ? -parts.time : parts.time;
    grad_a.lane = cut.sum & kSumLanes ? 0 : parts.lane;
    grad_a.chunk = cut.sum & kSumLanes ? parts.lane : parts.lane * cut.width;
    for (int d = 0; d < p.outer_rank; ++d) grad_a.outer[d] = parts.outer[d];
  }
  for (Operand &operand : scan.operand) operand.wide = operand.dtype && in_words(p, cut, operand);
  if (is_gated(p)) {
    const scanlib_gates &gates = p.gates;
    const int64_t size = dtype_size(p.dtype[SCANLIB_A]);
    auto from_decay = [&](int64_t at) { return (at - gates.at_decay) * size; };
    scan.gates = {from_decay(gates.at_input), from_decay(gates.at_output), from_decay(gates.at_candidate),
                  gates.complement ? -1 : 1};
    for (const int role : {SCANLIB_A, SCANLIB_GRAD_A}) {
      Operand &columns = scan.operand[role];
      columns.first = moved(columns.first, gates.at_decay * size);
      columns.wide = columns.wide && gates_in_words(p);
    }
  }
}

// Kernels access an element at once.
bool strides_aligned(const scanlib_problem &p) {
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!given(p, role)) continue;
    const int64_t size = dtype_size(p.dtype[role]);
    bool whole = p.time.stride[role] % size == 0 && p.inner.stride[role] % size == 0;
    for (int d = 0; d < p.outer_rank; ++d) whole = whole && p.outer[d].stride[role] % size == 0;
    if (!whole) return false;
  }
  return true;
}

}  // namespace

int cuda_scratch_bytes(const scanlib_problem &p, int64_t *bytes) {
  if (!usable(CudaTuning(p.tuning))) return SCANLIB_E_ARGUMENT;
  if (!strides_aligned(p)) return SCANLIB_E_ALIGNMENT;
  const Work work(p);
  if (work.too_large()) return SCANLIB_E_OVERFLOW;
  *bytes = work.scratch_bytes();
  return SCANLIB_OK;
}

int plan_cuda(const scanlib_problem &given_problem, CudaPlan *plan) {
  if (!plan || given_problem.abi_version != SCANLIB_ABI_VERSION) return SCANLIB_E_ARGUMENT;
  if (!usable(CudaTuning(given_problem.tuning))) return SCANLIB_E_ARGUMENT;
  if (!strides_aligned(given_problem)) return SCANLIB_E_ALIGNMENT;
  *plan = CudaPlan{};
  const Work work(given_problem);
  const auto &[loops, p, cut, parts, room, walks, sums] = work;
  if (work.too_large()) return SCANLIB_E_OVERFLOW;
  describe(work, plan->summary, sizeof plan->summary);
  plan->walks = walks;
  plan->sums = sums;
  plan->loops = loops;
  if (walks) {
    CudaLaunch &launch = plan->launch[plan->launches++];
    auto dtype = [&p = p](int role) { return p.dtype[role]; };
    // What a kernel has no use for is given the dtype computed in: one name for one program.
    write_options(launch.options, sizeof launch.options, cut.kernel, cut, dtype(SCANLIB_A),
                  dtype(is_gated(p)    ? SCANLIB_A
                        : cut.backward ? SCANLIB_GRAD_H
                                       : SCANLIB_X),
                  dtype(SCANLIB_H), cut.backward && !parts.needed ? dtype(SCANLIB_GRAD_A) : cut.value,
                  cut.backward && given(p, SCANLIB_GRAD_X) ? dtype(SCANLIB_GRAD_X) : cut.value);
    write_more_options(launch.options, sizeof launch.options, p);
    launch.threads = uint32_t(cut.threads);
    launch.persistent = cut.by_tickets();
    launch.blocks = uint32_t(std::min(launch.persistent ? cut.numbers() + cut.carriers() : cut.groups, kMostBlocks));
    launch.least_blocks = uint32_t(cut.carriers() + 1);
  }
  if (sums) {
    CudaLaunch &launch = plan->launch[plan->launches++];
    Cut reduce{};
    reduce.backward = true;
    reduce.value = cut.value;
    reduce.threads = kReduceThreads;
    reduce.run = 1;
    // Outputs side by side in a block, so that each thread has about kReduceTerms terms, and reads whole sectors.
    int64_t width = kReduceThreads / std::min<int64_t>(kReduceThreads, power_of_two(parts.reduce.terms / kReduceTerms));
    if (width < kReduceThreads) width = std::min<int64_t>(kWarp, std::max<int64_t>(4, width));
    reduce.width = int(std::min(width, power_of_two(parts.reduce.outputs)));
    if (reduce.width > kWarp && reduce.width < kReduceThreads) reduce.width = kWarp;
    write_options(launch.options, sizeof launch.options, kAddUp, reduce, parts.dtype, cut.value, cut.value,
                  p.dtype[SCANLIB_GRAD_A], cut.value);
    launch.threads = kReduceThreads;
    launch.blocks = uint32_t(std::min(ceil_div(parts.reduce.outputs, reduce.width), kMostBlocks));
  }
  Params params{};
  fill_offsets(p, cut, parts, room, &params);
  std::memcpy(plan->params.bytes, &params, sizeof params);
  plan->down = cut.down;
  plan->scratch_bytes = work.scratch_bytes();
  plan->zeroed_bytes = plan->launches ? room.zeroed : 0;
  return SCANLIB_OK;
}

void fill_cuda_params(const CudaPlan &plan, const CudaPointers &pointers, int64_t part, void *scratch,
                      CudaParams *out) {
  Params params;
  std::memcpy(&params, plan.params.bytes, sizeof params);
  auto into = [](auto *&offset, void *base) { offset = moved(offset, reinterpret_cast<intptr_t>(base)); };
  ScanParams &scan = params.scan;
  const bool parts = params.reduce.outputs > 0;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    Operand &operand = scan.operand[role];
    if (!operand.dtype) continue;
    const bool in_parts = parts && role == SCANLIB_GRAD_A;
    into(operand.first, in_parts ? moved(scratch, part) : pointers.of[role]);
    const intptr_t edge = reinterpret_cast<intptr_t>(operand.first) + (plan.down ? dtype_size(operand.dtype) : 0);
    operand.wide = operand.wide && edge % 16 == 0;
  }
  for (char **piece : {&scan.partials, &scan.bundles, &scan.stacks, &scan.ends, &params.reduce.from})
    into(*piece, scratch);
  for (unsigned **piece : {&scan.tickets, &scan.carrier_tickets, &scan.counts, &scan.stack_counts})
    into(*piece, scratch);
  into(params.reduce.to, pointers.of[SCANLIB_GRAD_A]);
  std::memcpy(out->bytes, &params, sizeof params);
}

}  // namespace scanlib
