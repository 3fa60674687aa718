#include "cuda_plan.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../cuda/params.h"
#include "problem.h"

namespace scanlib {
namespace {

static_assert(sizeof(Params) <= CudaParams::kBytes && std::is_trivially_copyable<Params>::value,
              "the kernels' argument fits CudaParams");
static_assert(int(kRoles) == int(SCANLIB_ROLES) && int(kH0) == int(SCANLIB_H0) && int(kGradH) == int(SCANLIB_GRAD_H) &&
                  int(kGradA) == int(SCANLIB_GRAD_A) && int(kGradH0) == int(SCANLIB_GRAD_H0),
              "cuda/params.h has the roles of scanlib.h");

// ------------------------------------------------------------------------------------------------------------- the table
//
//   problem                                           kernel     tile
//   at most `run` steps                               walk       wide: a thread takes a sequence; else few slices, one tile
//   many_lanes neighbours or more (columns)           walk       wide: a thread takes a sequence, step by step
//   time fits one tile                                walk       as many lanes as fill it
//   enough_groups or more                             walk       a block takes its lanes from the first to the last step
//   few and long                                      look-back  tiles of all lanes and stretches of time, in one pass

CudaTuning g_tuning;
std::atomic<int> g_tunings{0};

enum Kernel { kWalk = 0, kLookBack = 1, kAddUp = 2 };
enum Layout { kColumns = 0, kRows = 1 };
enum : int { kSumSteps = 1, kSumLanes = 2 };  // of grad_a, inside a tile

constexpr int kWarp = 32;
constexpr int kMostRun = 32;
constexpr int kWide = 128;  // lanes of a tile that has one slice only
constexpr int kReduceThreads = 256, kReduceTerms = 8;
constexpr int64_t kMostTickets = int64_t(1) << 30;  // of 2^31, since blocks draw some more
constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;
constexpr int64_t kMostBytes = int64_t(1) << 60;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t power_of_two(int64_t n) {  // at least n
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// How a problem is cut into tiles.
struct Cut {
  bool backward, against;  // against: steps are walked against the axis
  int32_t value;           // the dtype computed in
  Kernel kernel;
  Layout layout;
  bool down;  // rows whose later steps, as they are walked, lie at lower addresses
  int sum;
  int threads, width, run, bundle;
  int64_t chunks, groups, tiles;

  int slices() const { return threads / width; }
  int64_t numbers() const { return tiles * groups; }
  // Of one tile, as Mail in cuda/lookback.cuh lays them out.
  int64_t record_bytes() const { return width * 4 * dtype_size(value); }
  int64_t end_bytes() const { return width * (value == SCANLIB_F32 ? 8 : value == SCANLIB_C128 ? 32 : 16); }
};

// Bytes of an element of whichever operand with a time axis has the largest.
int64_t largest_element(const scanlib_problem &p) {
  int64_t size = 1;
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (!is_state(role)) size = std::max(size, dtype_size(p.dtype[role]));
  return size;
}

// Whether grad_a has one sum for all of an axis.
bool summed(const scanlib_axis &axis) { return axis.stride[SCANLIB_GRAD_A] == 0 && axis.extent != 1; }

// Of a block.
int most_threads(const Cut &cut) {
  const int64_t size = dtype_size(cut.value);
  const bool rows = cut.layout == kRows;
  // Two tiles lie in shared memory at a time, in columns with gaps that are widest beside short runs.
  if (cut.kernel == kLookBack)
    return size == 16 && !rows ? std::min(64, g_tuning.look_back_threads) : g_tuning.look_back_threads;
  // Elements of 16 bytes, and of 8 that are added up as well, take so many registers that large blocks would leave no room
  // for a second.
  const bool wide = size == 16 || (size == 8 && (cut.sum & kSumLanes));
  return rows || wide ? g_tuning.row_threads : g_tuning.column_threads;
}

void choose_tile(const scanlib_problem &p, Cut *cut) {
  const int64_t inner = std::max<int64_t>(1, p.inner.extent);
  const bool rows = cut->layout == kRows;
  const int most = most_threads(*cut), run_bytes = cut->backward ? g_tuning.backward_run_bytes : g_tuning.run_bytes;
  cut->run = int(std::min<int64_t>(kMostRun, std::max<int64_t>(2, run_bytes / largest_element(p))));
  const int64_t slices = std::min<int64_t>(most, power_of_two(ceil_div(std::max<int64_t>(1, p.time.extent), cut->run)));
  const bool alone = slices == 1 || (!rows && lane_count(p) >= g_tuning.many_lanes);
  if (alone && 2 * inner > kWide && cut->sum != kSumLanes) {
    cut->threads = cut->width = kWide;
  } else {
    int64_t width = std::min<int64_t>(kWarp, power_of_two(inner));
    if (rows) {
      width = std::max<int64_t>(1, std::min(width, most / slices));
    } else {
      // The widest that leaves few threads without a lane.
      auto padded = [&](int64_t w) { return ceil_div(inner, w) * w; };
      for (int64_t w = width; w >= 8; w /= 2)
        if (8 * padded(width) > 9 * padded(w)) width = w;
    }
    cut->width = int(width);
    cut->threads = int(std::min<int64_t>(most, std::max<int64_t>(kWarp, width * slices)));
  }
  int64_t outer = 1;
  for (int d = 0; d < p.outer_rank; ++d) outer *= p.outer[d].extent;
  cut->chunks = ceil_div(p.inner.extent, cut->width);
  cut->groups = outer * cut->chunks;
  cut->tiles = ceil_div(p.time.extent, int64_t(cut->slices()) * cut->run);
}

// Piles follow one another at about five microseconds each, in which memory brings so many bytes. In columns, where a thread
// has several records to read, smaller bundles make them fewer.
int bundle_for(const scanlib_problem &p, const Cut &cut) {
  constexpr int kMost = 32;
  constexpr int64_t kPileBytes = 12 << 20;
  if (cut.layout == kRows) return kMost;
  int64_t element = 0;
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H, SCANLIB_GRAD_H, SCANLIB_GRAD_A, SCANLIB_GRAD_X})
    element += dtype_size(p.dtype[role]);
  const int64_t bytes = cut.groups * cut.threads * cut.run * element;
  int bundle = 8;
  while (bundle < kMost && bytes * bundle * bundle * bundle < kPileBytes) bundle *= 2;
  return bundle;
}

// Threads that a multiprocessor is to hold.
int resident_threads(const Cut &cut) {
  if (g_tuning.resident) return std::max(g_tuning.resident, cut.threads);
  if (cut.value == SCANLIB_C128) return 384;
  // The longest runs, and sums in double precision, need the registers.
  if (cut.value != SCANLIB_F32 || cut.run == kMostRun || cut.sum) return 512;
  return cut.kernel == kLookBack ? 640 : 768;
}

Cut cut_problem(const scanlib_problem &p) {
  Cut cut{};
  cut.backward = is_backward(p);
  cut.against = against_time(p);
  cut.value = compute_dtype(p);
  cut.layout = time_nearest(p) ? kRows : kColumns;
  cut.down = cut.layout == kRows && cut.against;
  if (cut.backward && p.time.extent > 0) cut.sum = (summed(p.time) ? kSumSteps : 0) | (summed(p.inner) ? kSumLanes : 0);

  choose_tile(p, &cut);
  if (cut.tiles > 1 && cut.slices() > 1 && cut.groups < g_tuning.enough_groups) {
    Cut tiles = cut;
    tiles.kernel = kLookBack;
    choose_tile(p, &tiles);
    tiles.bundle = g_tuning.bundle ? g_tuning.bundle : bundle_for(p, tiles);
    if (tiles.slices() > 1) cut = tiles;  // what is not scanned has nothing to publish
  }
  if (cut.width == 1) cut.sum &= ~kSumLanes;  // nothing to add up inside a tile
  return cut;
}

// The partial sums of grad_a: where they lie in scratch memory and how the second launch adds them up.
struct Parts {
  bool needed, down;  // down: in memory's order, against that in which steps are walked
  int32_t dtype;
  int64_t bytes;
  int64_t outer[kOuterAxes], time, lane;  // strides in bytes
  ReduceParams reduce;                    // without its pointers
};

// Sets `part` of each loop that is summed.
Parts parts_of(const scanlib_problem &p, const Cut &cut, std::vector<CudaLoop> &loops) {
  Parts parts{};
  if (!cut.backward) return parts;
  const bool complex = cut.value == SCANLIB_C64 || cut.value == SCANLIB_C128;
  parts.down = cut.down && !(cut.sum & kSumSteps);
  parts.dtype = !(cut.sum & kSumSteps) ? cut.value : complex ? SCANLIB_C128 : SCANLIB_F64;
  const int64_t time = p.time.extent;
  const int64_t times = !(cut.sum & kSumSteps) ? time : cut.kernel == kLookBack ? cut.tiles : 1;
  const int64_t lanes = cut.sum & kSumLanes ? cut.chunks : p.inner.extent;

  // Axes from near to far, each with its stride in `parts`. Neighbours that are summed are one axis.
  constexpr int kMost = kOuterAxes + 2;
  int64_t stride = dtype_size(parts.dtype);
  ReduceParams::Axis kept[kMost], gone[kMost];
  int kept_rank = 0, gone_rank = 0;
  int64_t outputs = 1, terms = 1;
  bool last_gone = false;
  auto lay = [&](int64_t extent, int64_t to, bool sum) {
    const int64_t own = stride;
    if (!sum)
      kept[kept_rank++] = {extent, own, to};
    else if (last_gone)
      gone[gone_rank - 1].extent *= extent;
    else
      gone[gone_rank++] = {extent, own, 0};
    last_gone = sum;
    (sum ? terms : outputs) *= extent;
    if (stride < kMostBytes) stride *= std::max<int64_t>(1, extent);
    parts.needed = parts.needed || sum;
    return own;
  };
  const int64_t step = p.time.stride[SCANLIB_GRAD_A];
  auto lay_time = [&] {
    parts.time = lay(time == 0 ? 0 : times, cut.against && !parts.down ? -step : step, summed(p.time));
  };
  auto lay_lanes = [&] { parts.lane = lay(lanes, p.inner.stride[SCANLIB_GRAD_A], summed(p.inner)); };
  if (cut.layout == kRows) {
    lay_time();
    lay_lanes();
  } else {
    lay_lanes();
    lay_time();
  }
  for (int d = p.outer_rank - 1; d >= 0; --d)
    parts.outer[d] = lay(p.outer[d].extent, p.outer[d].stride[SCANLIB_GRAD_A], summed(p.outer[d]));
  for (auto loop = loops.rbegin(); loop != loops.rend() && loop->summed; ++loop)
    loop->part = lay(loop->axis.extent, 0, true);
  parts.bytes = stride;
  std::reverse_copy(kept, kept + kept_rank, parts.reduce.kept);
  std::reverse_copy(gone, gone + gone_rank, parts.reduce.summed);
  parts.reduce.kept_rank = kept_rank;
  parts.reduce.summed_rank = gone_rank;
  parts.reduce.outputs = outputs;
  parts.reduce.terms = terms;
  return parts;
}

// The pieces of scratch memory, as offsets.
struct Room {
  int64_t tickets, counts, stack_counts, partials, bundles, stacks, ends, zeroed, parts, bytes;
};

Room room_for(const Cut &cut, const Parts &parts) {
  Room room{};
  int64_t next = 0;
  auto take = [&](int64_t count, int64_t size) {
    int64_t at = next, bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > kMostBytes || next > kMostBytes) bytes = kMostBytes;
    next += (bytes + 255) / 256 * 256;
    return at;
  };
  if (cut.kernel == kLookBack) {
    const int64_t bundles = ceil_div(cut.tiles, cut.bundle) * cut.groups;
    const int64_t stacks = ceil_div(ceil_div(cut.tiles, cut.bundle), cut.bundle) * cut.groups;
    room.tickets = take(1, sizeof(unsigned));
    room.counts = take(bundles, sizeof(unsigned));
    room.stack_counts = take(stacks, sizeof(unsigned));
    room.partials = take(cut.numbers(), cut.record_bytes());
    room.bundles = take(bundles, cut.record_bytes());
    room.stacks = take(stacks, cut.record_bytes());
    room.ends = take(cut.numbers(), cut.end_bytes());
    room.zeroed = next;
  }
  if (parts.needed) room.parts = take(parts.bytes, 1);
  room.bytes = next;
  return room;
}

bool launches_walk(const scanlib_problem &p, const Cut &cut) {
  if (lane_count(p) == 0) return false;
  return p.time.extent > 0 || given(p, cut.backward ? SCANLIB_GRAD_H0 : SCANLIB_FINAL);
}

// A problem with as many outer axes as a kernel counts along, the shortest of the others in `loops`.
scanlib_problem without_loops(const scanlib_problem &p, std::vector<CudaLoop> *loops) {
  scanlib_problem q = p;
  while (q.outer_rank > kOuterAxes) {
    // One of extent 0 is none to repeat a launch for.
    auto length = [](const scanlib_axis &axis) { return axis.extent ? axis.extent : INT64_MAX; };
    scanlib_axis *const end = q.outer + q.outer_rank;
    scanlib_axis *const least = std::min_element(
        q.outer, end, [&](const scanlib_axis &a, const scanlib_axis &b) { return length(a) < length(b); });
    loops->push_back({*least, is_backward(p) && summed(*least), 0});
    std::copy(least + 1, end, least);
    --q.outer_rank;
  }
  std::stable_partition(loops->begin(), loops->end(), [](const CudaLoop &loop) { return !loop.summed; });
  return q;
}

// A problem cut, and what memory that takes; none where nothing is launched.
struct Work {
  std::vector<CudaLoop> loops;
  scanlib_problem problem;  // inside of them
  Cut cut;
  Parts parts;
  Room room;
  bool walks, sums;

  explicit Work(const scanlib_problem &p)
      : problem(without_loops(p, &loops)),
        cut(cut_problem(problem)),
        parts(parts_of(problem, cut, loops)),
        room(room_for(cut, parts)),
        walks(launches_walk(problem, cut)),
        sums(parts.needed && parts.reduce.outputs > 0) {}
  bool too_large() const {
    return room.bytes >= kMostBytes || (cut.kernel == kLookBack && cut.numbers() > kMostTickets);
  }
  int64_t scratch_bytes() const { return walks || sums ? room.bytes : 0; }
};

void write_options(char *to, size_t size, Kernel kernel, const Cut &cut, int32_t a, int32_t x, int32_t h,
                   int32_t grad_a, int32_t grad_x) {
  std::snprintf(to, size,
                "-DSCANLIB_KERNEL=%d -DSCANLIB_BACKWARD=%d -DSCANLIB_VALUE=%d -DSCANLIB_A=%d -DSCANLIB_X=%d "
                "-DSCANLIB_H=%d -DSCANLIB_GRAD_A=%d -DSCANLIB_GRAD_X=%d -DSCANLIB_LAYOUT=%d -DSCANLIB_THREADS=%d "
                "-DSCANLIB_WIDTH=%d -DSCANLIB_RUN=%d -DSCANLIB_DOWN=%d -DSCANLIB_BUNDLE=%d -DSCANLIB_SUM=%d "
                "-DSCANLIB_RESIDENT=%d",
                kernel, cut.backward, cut.value, a, x, h, grad_a, grad_x, cut.layout, cut.threads, cut.width, cut.run,
                cut.down, cut.bundle, cut.sum, resident_threads(cut));
}

void describe(const scanlib_problem &p, const Cut &cut, const Parts &parts, char *to, size_t size) {
  static const char *const kLayouts[] = {"columns", "rows"};
  std::snprintf(to, size,
                "%s %s over %s in %s: %lld sequences of %lld steps in %lld groups of up to %d, %lld tiles of %d steps "
                "each, %d threads%s",
                cut.backward ? "backward" : "forward", cut.kernel == kWalk ? "walk" : "look-back", kLayouts[cut.layout],
                dtype_name(cut.value), (long long)lane_count(p), (long long)p.time.extent, (long long)cut.groups,
                cut.width, (long long)cut.tiles, cut.slices() * cut.run, cut.threads,
                parts.needed ? "; grad_a in two stages" : "");
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
    operand.dtype = p.dtype[role];
    if (cut.against && p.time.extent > 0) operand.first = moved<char>(nullptr, (p.time.extent - 1) * step);
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
  scan.counts = moved<unsigned>(nullptr, room.counts);
  scan.stack_counts = moved<unsigned>(nullptr, room.stack_counts);
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
  const Work work(p);
  if (work.too_large()) return SCANLIB_E_OVERFLOW;
  *bytes = work.scratch_bytes();
  return SCANLIB_OK;
}

int plan_cuda(const scanlib_problem &given_problem, CudaPlan *plan) {
  if (!plan || given_problem.abi_version != SCANLIB_ABI_VERSION) return SCANLIB_E_ARGUMENT;
  if (!strides_aligned(given_problem)) return SCANLIB_E_ALIGNMENT;
  *plan = CudaPlan{};
  const Work work(given_problem);
  const auto &[loops, p, cut, parts, room, walks, sums] = work;
  if (work.too_large()) return SCANLIB_E_OVERFLOW;
  describe(p, cut, parts, plan->summary, sizeof plan->summary);
  plan->walks = walks;
  plan->sums = sums;
  plan->loops = loops;
  if (walks) {
    CudaLaunch &launch = plan->launch[plan->launches++];
    auto dtype = [&p = p](int role) { return p.dtype[role]; };
    // What a kernel has no use for is given the dtype computed in: one name for one program.
    write_options(launch.options, sizeof launch.options, cut.kernel, cut, dtype(SCANLIB_A),
                  dtype(cut.backward ? SCANLIB_GRAD_H : SCANLIB_X), dtype(SCANLIB_H),
                  cut.backward && !parts.needed ? dtype(SCANLIB_GRAD_A) : cut.value,
                  cut.backward ? dtype(SCANLIB_GRAD_X) : cut.value);
    launch.threads = uint32_t(cut.threads);
    launch.persistent = cut.kernel == kLookBack;
    launch.blocks = uint32_t(std::min(launch.persistent ? cut.numbers() : cut.groups, kMostBlocks));
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
  plan->zeroed_bytes = plan->launches && cut.kernel == kLookBack ? room.zeroed : 0;
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
  for (unsigned **piece : {&scan.tickets, &scan.counts, &scan.stack_counts}) into(*piece, scratch);
  into(params.reduce.to, pointers.of[SCANLIB_GRAD_A]);
  std::memcpy(out->bytes, &params, sizeof params);
}

int cuda_tunings() { return g_tunings; }

}  // namespace scanlib

extern "C" int scanlib_cuda_tune(const char *name, int64_t value) {
  using scanlib::CudaTuning, scanlib::g_tuning;
  ++scanlib::g_tunings;
  if (!name) return g_tuning = CudaTuning{}, SCANLIB_OK;
  if (!std::strcmp(name, "enough_groups")) return g_tuning.enough_groups = value, SCANLIB_OK;
  if (!std::strcmp(name, "many_lanes")) return g_tuning.many_lanes = value, SCANLIB_OK;
  const std::pair<const char *, int CudaTuning::*> kNumbers[] = {
      {"row_threads", &CudaTuning::row_threads},
      {"column_threads", &CudaTuning::column_threads},
      {"look_back_threads", &CudaTuning::look_back_threads},
      {"run_bytes", &CudaTuning::run_bytes},
      {"backward_run_bytes", &CudaTuning::backward_run_bytes},
      {"bundle", &CudaTuning::bundle},
      {"resident", &CudaTuning::resident},
  };
  for (auto &[key, number] : kNumbers)
    if (!std::strcmp(name, key)) return g_tuning.*number = int(value), SCANLIB_OK;
  return SCANLIB_E_ARGUMENT;
}
