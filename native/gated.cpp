// Gated recurrences on the CPU: gates on the way in and out of the one scan. Work is cut into blocks of a few thousand elements:
// units by time. The gates of a block, which are most of the work, need nothing from other blocks (its source); then it takes the
// carry of the block before it in time (relay.h), walks its steps in cache by the inner loops of the linear recurrence, passes the
// carry on, and writes what is made of the states (its sink).
#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "gates.h"
#include "offsets.h"
#include "pages.h"
#include "pointers.h"
#include "problem.h"
#include "relay.h"
#include "scanlib.h"
#include "scratch.h"
#include "threads.h"

namespace scanlib {
namespace {

constexpr int64_t kBlockUnits = 256;             // the most units in a block
constexpr int64_t kGatesAloneBytes = 32 * 1024;  // of states; less than this stays on the calling thread

template <class T>
class GatedRun {
 public:
  GatedRun(const scanlib_problem &problem, void *const *data)
      : p_(problem),
        g_(problem.gates),
        kernels_(instruction_set()),
        scan_(instruction_set()),
        columns_(static_cast<const T *>(data[SCANLIB_A])),
        initial_(static_cast<const T *>(data[SCANLIB_H0])),
        grad_(static_cast<const T *>(data[SCANLIB_GRAD_H])),
        grad_final_(static_cast<const T *>(data[SCANLIB_GRAD_FINAL])),
        reset_(static_cast<const uint8_t *>(data[SCANLIB_RESET])),
        packed_(given(problem, SCANLIB_OFFSETS)),
        offsets_(problem, data[SCANLIB_OFFSETS], false),
        h_(static_cast<T *>(data[SCANLIB_H])),
        y_(static_cast<T *>(data[SCANLIB_Y])),
        final_(static_cast<T *>(data[SCANLIB_FINAL])),
        grad_columns_(static_cast<T *>(data[SCANLIB_GRAD_A])),
        grad_initial_(static_cast<T *>(data[SCANLIB_GRAD_H0])) {
    rows_ = std::max<int64_t>(1, std::min(g_.inner, kBlockUnits / g_.width));
    width_ = std::min(g_.width, kBlockUnits);
    row_blocks_ = (g_.inner + rows_ - 1) / rows_;
    unit_blocks_ = (g_.width + width_ - 1) / width_;
    chains_ = g_.outer * row_blocks_ * unit_blocks_;
    steps_ = std::max<int64_t>(1, kPanel / (rows_ * width_));
    segments_ = (g_.time + steps_ - 1) / steps_;
  }

  int run() {
    const bool alone = states() * int64_t(sizeof(T)) < kGatesAloneBytes;
    const int workers = useful_threads(p_.threads, alone ? 1 : chains_ * segments_);
    const int64_t lanes = rows_ * width_;
    const int64_t shared = Relay<T>::room(chains_, kCarries * lanes) + Arena::room<T>(lanes);
    return run_pieces(
        *this, workers, p_.flags & SCANLIB_OPENMP, shared,
        2 * Arena::room<T>(lanes * steps_) + Arena::room<T>(kCarries * lanes) + Arena::room<char>(cut_bytes()));
  }

  // For run_pieces().
  void open(Arena &arena) {
    const int64_t lanes = rows_ * width_;
    relay_.open(arena, chains_, kCarries * lanes);
    zeros_ = arena.take<T>(lanes);
    std::fill(zeros_, zeros_ + lanes, T(0));
    for (T *output : {grad_ ? nullptr : h_, y_})
      if (output) advise(output, states());
    if (grad_columns_) advise(grad_columns_, states() / g_.width * g_.row);
  }
  void work(Arena &arena) {
    const int64_t lanes = rows_ * width_;
    T *const decay = arena.take<T>(lanes * steps_), *const panel = arena.take<T>(lanes * steps_);
    T *const carry = arena.take<T>(kCarries * lanes);
    char *const cuts = arena.take<char>(cut_bytes());
    for (int64_t piece; (piece = relay_.next()) < chains_ * segments_;) {
      const int64_t turn = piece / chains_, chain = piece % chains_;
      if (grad_)
        backward(place_of(chain, segments_ - 1 - turn), turn, decay, panel, carry, cuts);
      else
        forward(place_of(chain, turn), turn, decay, panel, carry, cuts);
    }
  }
  void close() {}

 private:
  static constexpr int64_t kCarries = 2;  // backward passes on the decay that its state is to be multiplied by

  // Of a block's mask with a byte a lane, and one step more; none where all lanes of a step have one byte.
  int64_t cut_bytes() const { return reset_ && rows_ > 1 ? rows_ * width_ * (steps_ + 1) : 0; }
  int64_t states() const { return g_.outer * g_.time * g_.inner * g_.width; }
  static void advise(T *begin, int64_t count) {
    Pages::advise(reinterpret_cast<char *>(begin), reinterpret_cast<char *>(begin + count));
  }

  // One block: a chain of blocks follows the same units through time.
  struct Place {
    int64_t chain, first;  // first: its first step
    GateBlock block;
    int64_t gate, state;  // where its first element is: among the columns, in states
    int64_t outer, lane;  // of states without time, or with segments in its place
  };
  // Steps of a block that are of one sequence; whether they begin and end it, and which of the segments that is.
  struct Stretch {
    int64_t begin, end;
    bool starts, ends;
    int64_t segment;
  };

  Place place_of(int64_t chain, int64_t segment) const {
    Place p;
    const int64_t units = chain % unit_blocks_ * width_, rest = chain / unit_blocks_;
    const int64_t row = rest % row_blocks_ * rows_, outer = rest / row_blocks_;
    p.chain = chain;
    p.first = segment * steps_;
    const int64_t at = (outer * g_.time + p.first) * g_.inner + row;
    p.block = {std::min(steps_, g_.time - p.first),
               std::min(rows_, g_.inner - row),
               std::min(width_, g_.width - units),
               g_.inner * g_.row,
               g_.row,
               g_.inner * g_.width,
               reset_ ? reset_ + at : nullptr,
               g_.inner};
    p.gate = at * g_.row + units;
    p.state = at * g_.width + units;
    p.outer = outer;
    p.lane = row * g_.width + units;
    return p;
  }
  // Those that step k is one of.
  Stretch stretch_of(const Place &p, int64_t k) const {
    const int64_t steps = p.block.steps;
    const int64_t segment = packed_ ? offsets_.of(p.first + k) : 0;
    const int64_t begin = (packed_ ? offsets_.at(segment) : 0) - p.first;
    const int64_t end = (packed_ ? offsets_.at(segment + 1) : g_.time) - p.first;
    return {std::max<int64_t>(begin, 0), std::min(end, steps), begin >= 0, end <= steps, segment};
  }
  template <class P>
  P *state_at(P *states, const Place &p, int64_t segment) const {
    return states ? states + (p.outer * (packed_ ? g_.segments : 1) + segment) * g_.inner * g_.width + p.lane : nullptr;
  }

  T sign() const { return g_.complement ? T(-1) : T(1); }

  template <class P>
  GateColumns<P> gates_at(P *columns, int64_t place) const {
    auto at = [=](int64_t offset) { return offset < 0 ? nullptr : columns + place + offset; };
    return {at(g_.at_decay), at(g_.at_input), at(g_.at_output), at(g_.at_candidate)};
  }

  // Calls body(first unit among dense lanes, row of states) for each row of step k that is cut.
  template <class Body>
  static void each_cut(const GateBlock &block, int64_t k, Body body) {
    for (int64_t r = 0; block.reset && r < block.rows; ++r)
      if (block.cut(k, r)) body(r * block.width);
  }

  // The steps from k on that take nothing from those before, in the direction of `step`, 1 or -1; `cuts` has been spread() over lanes.
  Mask mask_at(const GateBlock &block, const char *cuts, int64_t k, int step) const {
    if (!reset_) return {};
    if (block.rows > 1) return {cuts + k * block.lanes(), step * block.lanes(), 1};
    return {reinterpret_cast<const char *>(block.reset) + k * block.reset_step, step * block.reset_step, 0};
  }
  void spread(const Place &p, char *cuts) const {
    const GateBlock &b = p.block;
    if (!reset_ || b.rows == 1) return;
    const int64_t steps = std::min(b.steps + 1, g_.time - p.first);
    for (int64_t k = 0; k < steps; ++k)
      for (int64_t r = 0; r < b.rows; ++r, cuts += b.width) std::memset(cuts, b.cut(k, r), size_t(b.width));
  }

  void forward(const Place &p, int64_t turn, T *decay, T *entering, T *carry, char *cuts) {
    const GateColumns<const T> gates = gates_at(columns_, p.gate);
    kernels_.open(p.block, gates, g_.candidate, sign(), decay, entering);
    spread(p, cuts);
    receive(p, turn, carry);
    const int64_t lanes = p.block.lanes(), step = p.block.state_step;
    T *h = h_ + p.state;
    const bool before = g_.reading == SCANLIB_BEFORE;
    for (int64_t k = 0; k < p.block.steps;) {
      const Stretch s = stretch_of(p, k);
      if (s.starts) enter(p, s.segment, initial_, carry);
      // Where a row of states is that before its step, the first is the carry, and the last state goes on.
      const int64_t n = s.end - k - before;
      if (before) std::memcpy(h + k * step, carry, size_t(lanes) * sizeof(T));
      scan_.columns_forward(n, lanes, decay + k * lanes, lanes, entering + k * lanes, lanes, h + (k + before) * step,
                            step, carry, mask_at(p.block, cuts, k, 1));
      if (before) {
        const int64_t last = k + n;
        T *const left = entering + last * lanes;
        scan_.columns_forward(1, lanes, decay + last * lanes, 0, left, 0, left, 0, carry,
                              mask_at(p.block, cuts, last, 1));
      }
      if (s.ends) leave(p, s.segment, carry, final_);
      k = s.end;
    }
    for (int64_t k = 0; before && k < p.block.steps; ++k)
      each_cut(p.block, k, [&](int64_t row) { std::fill_n(h + k * step + row, p.block.width, T(0)); });
    pass_through(p, initial_, final_);
    relay_.pass_on(p.chain, turn, lanes, carry);
    if (g_.reading == SCANLIB_GATED) kernels_.read(p.block, gates.output, h, y_ + p.state);
  }

  void backward(const Place &p, int64_t turn, T *decay, T *grad, T *carry, char *cuts) {
    const GateColumns<const T> gates = gates_at(columns_, p.gate);
    const GateColumns<T> to = gates_at(grad_columns_, p.gate);
    const int64_t lanes = p.block.lanes(), step = p.block.state_step, last = p.block.steps - 1;
    const T *h = h_ + p.state;
    kernels_.decay(p.block, gates.decay, sign(), decay);
    if (g_.reading == SCANLIB_GATED) {
      kernels_.read_backward(p.block, gates.output, h, grad_ + p.state, to.output, grad);
    } else {
      const int64_t ahead = g_.reading == SCANLIB_BEFORE ? 1 : 0;  // the state after a step is row `ahead` further on
      for (int64_t k = 0; k <= last; ++k) read_grad(p, k + ahead, grad + k * lanes);
    }
    spread(p, cuts);
    // From the last step to the first, the coefficient of a step is the decay of the step after it: for the block's last, the one that
    // is passed on beside the state, and for a sequence's last, one.
    receive(p, turn, carry, kCarries);
    T *const coefficient = carry + lanes;
    for (int64_t left = p.block.steps; left > 0;) {
      const Stretch s = stretch_of(p, left - 1);
      if (s.ends) {
        enter(p, s.segment, grad_final_, carry);
        std::fill_n(coefficient, lanes, T(1));
      }
      T *const end = grad + (s.end - 1) * lanes;
      scan_.columns_forward(1, lanes, coefficient, 0, end, 0, end, 0, carry,
                            s.ends ? Mask{} : mask_at(p.block, cuts, s.end, 1));
      scan_.columns_forward(s.end - 1 - s.begin, lanes, decay + (s.end - 1) * lanes, -lanes, end - lanes, -lanes,
                            end - lanes, -lanes, carry, mask_at(p.block, cuts, s.end - 1, -1));
      std::memcpy(coefficient, decay + s.begin * lanes, size_t(lanes) * sizeof(T));
      if (s.starts) {
        const T *const read = g_.reading == SCANLIB_BEFORE ? grad_ + p.state + s.begin * step : nullptr;
        for (int64_t r = 0, j = 0; r < p.block.rows; ++r)
          for (const bool cut = p.block.cut(s.begin, r); j < (r + 1) * p.block.width; ++j)
            carry[j] = cut ? T(0) : carry[j] * coefficient[j] + (read ? read[j] : T(0));
        leave(p, s.segment, carry, grad_initial_);
      }
      left = s.begin;
    }
    pass_through(p, grad_final_, grad_initial_);
    relay_.pass_on(p.chain, turn, kCarries * lanes, carry);
    if (g_.reading == SCANLIB_BEFORE) {
      kernels_.open_backward(p.block, gates, g_.candidate, sign(), decay, grad, h, to);
      return;
    }
    for (int64_t k = 0; k < p.block.steps;) {
      const Stretch s = stretch_of(p, k);
      auto open = [&](int64_t begin, int64_t end, const T *before) {
        GateBlock part = p.block.from(begin);
        part.steps = end - begin;
        const int64_t by = begin * p.block.gate_step;
        kernels_.open_backward(part, shifted(gates, by), g_.candidate, sign(), decay + begin * lanes,
                               grad + begin * lanes, before, shifted(to, by));
      };
      // Before the first step there is no row of states but the initial one, or zeros.
      const int64_t alone = s.starts ? k + 1 : k;
      const T *const initial = state_at(initial_, p, s.segment);
      if (s.starts) open(k, alone, initial ? initial : zeros_);
      open(alone, s.end, h + (alone - 1) * step);
      k = s.end;
    }
  }

  // The gradient of row k of the output, counted from the block's first: nothing past the last, and where the state before a step is
  // read, of those that are cut, or that is read from an initial state.
  void read_grad(const Place &p, int64_t k, T *to) const {
    const int64_t lanes = p.block.lanes();
    const int64_t t = p.first + k;
    const bool other = packed_ && g_.reading == SCANLIB_BEFORE && t < g_.time && offsets_.start_of(t) == t;
    if (t >= g_.time || other) return void(std::fill_n(to, lanes, T(0)));
    std::memcpy(to, grad_ + p.state + k * p.block.state_step, size_t(lanes) * sizeof(T));
    if (g_.reading == SCANLIB_BEFORE)
      each_cut(p.block, k, [&](int64_t row) { std::fill_n(to + row, p.block.width, T(0)); });
  }

  template <class P>
  static GateColumns<P> shifted(const GateColumns<P> &of, int64_t by) {
    auto at = [=](P *p) { return p ? p + by : nullptr; };
    return {at(of.decay), at(of.input), at(of.output), at(of.candidate)};
  }

  void receive(const Place &p, int64_t turn, T *carry, int64_t carries = 1) const {
    if (turn > 0) relay_.receive(p.chain, turn, carries * p.block.lanes(), carry);
  }
  // The state of a segment; without `from`, zeros.
  void enter(const Place &p, int64_t segment, const T *from, T *carry) const {
    copy_state(p, state_at(from, p, segment), carry);
  }
  void leave(const Place &p, int64_t segment, const T *carry, T *to) const {
    if (to) std::memcpy(state_at(to, p, segment), carry, size_t(p.block.lanes()) * sizeof(T));
  }
  // What enters segments without steps leaves them: those that lie where sequences of the block start, or after the last step of all.
  void pass_through(const Place &p, const T *from, T *to) const {
    if (!packed_ || !to) return;
    for (int64_t k = 0; k <= p.block.steps;) {
      const bool end = k == p.block.steps;
      if (!end || p.first + k == g_.time) {
        const auto [empty, own] = offsets_.here(p.first + k);
        for (int64_t segment = empty; segment < own; ++segment)
          copy_state(p, state_at(from, p, segment), state_at(to, p, segment));
      }
      k = end ? k + 1 : stretch_of(p, k).end;
    }
  }
  static void copy_state(const Place &p, const T *from, T *to) {
    const int64_t lanes = p.block.lanes();
    if (from)
      std::memcpy(to, from, size_t(lanes) * sizeof(T));
    else
      std::fill_n(to, lanes, T(0));
  }

  const scanlib_problem &p_;
  const scanlib_gates &g_;
  const GateKernels<T> &kernels_;
  const LinearKernels<T> &scan_;
  const T *columns_, *initial_, *grad_, *grad_final_;
  const uint8_t *reset_;
  const bool packed_;
  const Offsets offsets_;  // in the order of time
  T *h_, *y_, *final_, *grad_columns_, *grad_initial_;
  int64_t rows_, width_, row_blocks_, unit_blocks_, chains_, steps_, segments_;
  Relay<T> relay_;
  T *zeros_ = nullptr;  // a row of states
};

}  // namespace

int run_gated(const scanlib_problem &p, void *const *data) {
  if (p.dtype[SCANLIB_A] != SCANLIB_F32 && p.dtype[SCANLIB_A] != SCANLIB_F64) return SCANLIB_E_ARGUMENT;
  if (!pointers_aligned(p, data)) return SCANLIB_E_ALIGNMENT;
  return p.dtype[SCANLIB_A] == SCANLIB_F32 ? GatedRun<float>(p, data).run() : GatedRun<double>(p, data).run();
}

}  // namespace scanlib
