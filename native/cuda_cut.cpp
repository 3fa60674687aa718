#include "cuda_cut.h"

#include <algorithm>

namespace scanlib {
namespace {

// ------------------------------------------------------------------------------------------------------------- the table
//
//   problem                                           kernel     tile
//   at most `run` steps                               walk       wide: a thread takes a sequence; else few slices, one tile
//   many_lanes neighbours or more (columns)           walk       wide: a thread takes a sequence, step by step
//   time fits one tile                                walk       as many lanes as fill it
//   enough_groups or more                             walk       a block takes its lanes from the first to the last step, perhaps
//                                                                of two groups that lie side by side
//   few and long                                      look-back  tiles of all lanes and stretches of time, in one pass

constexpr int kFewLanes = 4;     // of each of which tiles come so fast that carriers take two at a time
constexpr int kWide = 128;       // lanes of a tile that has one slice only
constexpr int kStepBytes = 256;  // of all lanes of a tile: memory takes longer for smaller pieces
constexpr int64_t kMostTickets = int64_t(1) << 30;  // of 2^31, since blocks draw some more
constexpr int64_t kMostBytes = int64_t(1) << 60;

// Bytes of an element of whichever operand has the largest of those with an element a step.
int64_t largest_element(const scanlib_problem &p) {
  int64_t size = 1;
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (!is_state(role) && role != SCANLIB_OFFSETS) size = std::max(size, dtype_size(p.dtype[role]));
  return size;
}

// Whether grad_a has one sum for all of an axis.
bool summed(const scanlib_axis &axis) { return axis.stride[SCANLIB_GRAD_A] == 0 && axis.extent != 1; }

// Of a block.
int most_threads(const Cut &cut) {
  const CudaTuning &tuning = cut.tuning;
  const int64_t size = dtype_size(cut.value);
  const bool rows = cut.layout == kRows;
  // Two tiles lie in shared memory at a time, in columns with gaps that are widest beside short runs.
  if (cut.by_tickets())
    return int(size == 16 && !rows ? std::min<int64_t>(64, tuning.look_back_threads) : tuning.look_back_threads);
  // Elements of 16 bytes, and of 8 that are added up as well, take so many registers that large blocks would leave no room
  // for a second.
  const bool wide = size == 16 || (size == 8 && (cut.sum & kSumLanes));
  return int(rows || wide ? tuning.row_threads : tuning.column_threads);
}

void choose_tile(const scanlib_problem &p, Cut *cut) {
  const int64_t inner = std::max<int64_t>(1, p.inner.extent);
  const bool rows = cut->layout == kRows;
  const CudaTuning &tuning = cut->tuning;
  const int most = most_threads(*cut);
  const int64_t run_bytes = cut->backward ? tuning.backward_run_bytes : tuning.run_bytes;
  cut->run = int(std::min<int64_t>(kMostRun, std::max<int64_t>(2, run_bytes / largest_element(p))));
  // A tile of gates has up to four columns on their way, and what is computed of them in registers.
  if (cut->gated)
    cut->run = int(std::min<int64_t>(kMostRun / 2, std::max<int64_t>(2, run_bytes / 2 / dtype_size(cut->value))));
  const int64_t slices = std::min<int64_t>(most, power_of_two(ceil_div(std::max<int64_t>(1, p.time.extent), cut->run)));
  const bool alone = slices == 1 || (!rows && lane_count(p) >= tuning.many_lanes);
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

// Two warps side by side have twice the lanes of a step, and half of a tile's steps: of columns that a block walks.
void set_abreast(const scanlib_problem &p, Cut *cut) {
  constexpr int kTwo = 2 * kWarp;
  if (cut->layout != kColumns || cut->width != kWarp || p.inner.extent % kTwo || cut->sum == kSumLanes) return;
  if (cut->tiles == 1 || cut->slices() < 4 || kWarp * largest_element(p) >= kStepBytes) return;
  cut->width = kTwo;
  cut->chunks /= 2;
  cut->groups /= 2;
  cut->tiles = ceil_div(p.time.extent, int64_t(cut->slices()) * cut->run);
}

// Piles follow one another at about five microseconds each, in which memory brings so many bytes. In columns, where a thread
// has several records to read, smaller bundles make them fewer.
int bundle_for(const scanlib_problem &p, const Cut &cut) {
  constexpr int64_t kPileBytes = 12 << 20;
  if (cut.layout == kRows) return kMostBundle;
  int64_t element = 0;
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H, SCANLIB_GRAD_H, SCANLIB_GRAD_A, SCANLIB_GRAD_X})
    element += dtype_size(p.dtype[role]);
  const int64_t bytes = cut.groups * cut.threads * cut.run * element;
  int bundle = 8;
  while (bundle < kMostBundle && bytes * bundle * bundle * bundle < kPileBytes) bundle *= 2;
  return bundle;
}

// Where lanes are few, carriers tell blocks the states before their tiles; where they are many, blocks look for themselves.
void choose_carry(const scanlib_problem &p, Cut *cut) {
  const int64_t lanes = cut->groups * cut->width;
  if (cut->layout != kRows || lanes > kMostCarriers) {
    cut->bundle = cut->tuning.bundle ? int(cut->tuning.bundle) : bundle_for(p, *cut);
    return;
  }
  cut->carrier_tiles = lanes < kFewLanes ? 2 : 1;
  cut->team = cut->threads / kWarp;
  while (cut->team > 1 && cut->team * lanes > kMostCarriers) cut->team /= 2;
}

Cut cut_problem(const scanlib_problem &p) {
  Cut cut{};
  cut.tuning = CudaTuning(p.tuning);
  cut.gated = is_gated(p);
  cut.packed = given(p, SCANLIB_OFFSETS);
  cut.backward = is_backward(p);
  cut.against = against_time(p);
  cut.value = compute_dtype(p);
  cut.layout = time_nearest(p) && !cut.gated ? kRows : kColumns;
  cut.down = cut.layout == kRows && cut.against;
  if (cut.backward && p.time.extent > 0) cut.sum = (summed(p.time) ? kSumSteps : 0) | (summed(p.inner) ? kSumLanes : 0);

  choose_tile(p, &cut);
  if (cut.tiles > 1 && cut.slices() > 1 && cut.groups < cut.tuning.enough_groups) {
    Cut tiles = cut;
    tiles.kernel = kLookBack;
    choose_tile(p, &tiles);
    choose_carry(p, &tiles);
    if (tiles.slices() > 1) cut = tiles;  // what is not scanned has nothing to publish
  }
  if (cut.kernel == kWalk) set_abreast(p, &cut);
  if (cut.width == 1) cut.sum &= ~kSumLanes;  // nothing to add up inside a tile
  return cut;
}

// Sets `part` of each loop that is summed.
Parts parts_of(const scanlib_problem &p, const Cut &cut, std::vector<CudaLoop> &loops) {
  Parts parts{};
  if (!cut.backward) return parts;
  const bool complex = cut.value == SCANLIB_C64 || cut.value == SCANLIB_C128;
  parts.down = cut.down && !(cut.sum & kSumSteps);
  parts.dtype = !(cut.sum & kSumSteps) ? cut.value : complex ? SCANLIB_C128 : SCANLIB_F64;
  const int64_t time = p.time.extent;
  const int64_t times = !(cut.sum & kSumSteps) ? time : cut.by_tickets() ? cut.tiles : 1;
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
    const int64_t bundles = cut.bundle ? ceil_div(cut.tiles, cut.bundle) * cut.groups : 0;
    const int64_t stacks = cut.bundle ? ceil_div(ceil_div(cut.tiles, cut.bundle), cut.bundle) * cut.groups : 0;
    room.tickets = take(1, sizeof(unsigned));
    room.carrier_tickets = take(1, sizeof(unsigned));
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

}  // namespace

CudaTuning::CudaTuning(const scanlib_tuning &given) {
  auto set = [](int64_t number, int64_t &target) {
    if (number) target = number;
  };
  set(given.row_threads, row_threads);
  set(given.column_threads, column_threads);
  set(given.look_back_threads, look_back_threads);
  set(given.run_bytes, run_bytes);
  set(given.backward_run_bytes, backward_run_bytes);
  set(given.bundle, bundle);
  set(given.resident, resident);
  set(given.enough_groups, enough_groups);
  set(given.many_lanes, many_lanes);
}

bool usable(const CudaTuning &tuning) {
  for (const int64_t threads : {tuning.row_threads, tuning.column_threads, tuning.look_back_threads})
    if (threads < kWarp || threads > kMostThreads || (threads & (threads - 1))) return false;
  for (const int64_t number : {tuning.run_bytes, tuning.backward_run_bytes, tuning.enough_groups, tuning.many_lanes})
    if (number < 1) return false;
  if (tuning.bundle < 0 || tuning.bundle == 1 || tuning.bundle > kMostBundle) return false;
  return tuning.resident >= 0 && tuning.resident <= kMostResident;
}

Work::Work(const scanlib_problem &p)
    : problem(without_loops(p, &loops)),
      cut(cut_problem(problem)),
      parts(parts_of(problem, cut, loops)),
      room(room_for(cut, parts)),
      walks(launches_walk(problem, cut)),
      sums(parts.needed && parts.reduce.outputs > 0) {}

bool Work::too_large() const { return room.bytes >= kMostBytes || (cut.by_tickets() && cut.numbers() > kMostTickets); }

}  // namespace scanlib
