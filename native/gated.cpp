// Gated recurrences on the CPU: gates on the way in and out of the one scan. Work is cut into blocks of a few thousand elements:
// units by time. The gates of a block, which are most of the work, need nothing from other blocks (its source); then it takes the
// carry of the block before it in time (relay.h), walks its steps in cache by the inner loops of the linear recurrence, passes the
// carry on, and writes what is made of the states (its sink).
#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "gates.h"
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
    return run_pieces(*this, workers, p_.flags & SCANLIB_OPENMP, shared,
                      2 * Arena::room<T>(lanes * steps_) + Arena::room<T>(kCarries * lanes));
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
    for (int64_t piece; (piece = relay_.next()) < chains_ * segments_;) {
      const int64_t turn = piece / chains_, chain = piece % chains_;
      if (grad_)
        backward(place_of(chain, segments_ - 1 - turn), turn, decay, panel, carry);
      else
        forward(place_of(chain, turn), turn, decay, panel, carry);
    }
  }
  void close() {}

 private:
  static constexpr int64_t kCarries = 2;  // backward passes on the decay that its state is to be multiplied by

  int64_t states() const { return g_.outer * g_.time * g_.inner * g_.width; }
  static void advise(T *begin, int64_t count) {
    Pages::advise(reinterpret_cast<char *>(begin), reinterpret_cast<char *>(begin + count));
  }

  // One block: a chain of blocks follows the same units through time.
  struct Place {
    int64_t chain, first;  // first: its first step
    GateBlock block;
    int64_t gate, state, carry;  // where its first element is: among the columns, in states, in states without time
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
    p.carry = (outer * g_.inner + row) * g_.width + units;
    return p;
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

  void forward(const Place &p, int64_t turn, T *decay, T *entering, T *carry) {
    const GateColumns<const T> gates = gates_at(columns_, p.gate);
    kernels_.open(p.block, gates, g_.candidate, sign(), decay, entering);
    receive(p, turn, initial_, carry);
    const int64_t lanes = p.block.lanes(), step = p.block.state_step, last = p.block.steps - 1;
    T *h = h_ + p.state;
    if (g_.reading == SCANLIB_BEFORE) {
      // A row of states is that before its step: the first is the carry, the last state goes to the next block.
      std::memcpy(h, carry, size_t(lanes) * sizeof(T));
      scan_.columns_forward(last, lanes, decay, lanes, entering, lanes, h + step, step, carry);
      scan_.columns_forward(1, lanes, decay + last * lanes, 0, entering + last * lanes, 0, entering + last * lanes, 0,
                            carry);
      for (int64_t k = 0; k <= last; ++k)
        each_cut(p.block, k, [&](int64_t row) { std::fill_n(h + k * step + row, p.block.width, T(0)); });
    } else {
      scan_.columns_forward(p.block.steps, lanes, decay, lanes, entering, lanes, h, step, carry);
    }
    pass_on(p, turn, carry, final_);
    if (g_.reading == SCANLIB_GATED) kernels_.read(p.block, gates.output, h, y_ + p.state);
  }

  void backward(const Place &p, int64_t turn, T *decay, T *grad, T *carry) {
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
    // From the last step to the first, the coefficient of a step is the decay of the step after it: for the block's last, the one that
    // is passed on beside the state, and of all, one.
    receive(p, turn, grad_final_, carry, kCarries);
    T *const end = grad + last * lanes, *const coefficient = carry + lanes;
    if (turn == 0) std::fill_n(coefficient, lanes, T(1));
    scan_.columns_forward(1, lanes, coefficient, 0, end, 0, end, 0, carry);
    scan_.columns_forward(last, lanes, decay + last * lanes, -lanes, end - lanes, -lanes, end - lanes, -lanes, carry);
    std::memcpy(coefficient, decay, size_t(lanes) * sizeof(T));
    if (p.first == 0) {
      for (int64_t j = 0; j < lanes; ++j) carry[j] *= coefficient[j];
      for (int64_t r = 0; g_.reading == SCANLIB_BEFORE && r < p.block.rows; ++r)
        for (int64_t j = r * p.block.width; j < (r + 1) * p.block.width && !p.block.cut(0, r); ++j)
          carry[j] += grad_[p.state + j];
    }
    pass_on(p, turn, carry, grad_initial_, kCarries);
    if (g_.reading == SCANLIB_BEFORE) {
      kernels_.open_backward(p.block, gates, g_.candidate, sign(), decay, grad, h, to);
      return;
    }
    int64_t done = 0;
    if (p.first == 0) {
      // Before the first step there is no row of states but the initial one, or zeros.
      GateBlock block = p.block;
      block.steps = done = 1;
      const T *before = initial_ ? initial_ + p.carry : zeros_;
      kernels_.open_backward(block, gates, g_.candidate, sign(), decay, grad, before, to);
    }
    const int64_t by = done * p.block.gate_step;
    kernels_.open_backward(p.block.from(done), shifted(gates, by), g_.candidate, sign(), decay + done * lanes,
                           grad + done * lanes, h + (done - 1) * step, shifted(to, by));
  }

  // The gradient of row k of the output, counted from the block's first: nothing past the last, and where the state before a step is
  // read, of those that are cut.
  void read_grad(const Place &p, int64_t k, T *to) const {
    const int64_t lanes = p.block.lanes();
    if (p.first + k >= g_.time) return void(std::fill_n(to, lanes, T(0)));
    std::memcpy(to, grad_ + p.state + k * p.block.state_step, size_t(lanes) * sizeof(T));
    if (g_.reading == SCANLIB_BEFORE)
      each_cut(p.block, k, [&](int64_t row) { std::fill_n(to + row, p.block.width, T(0)); });
  }

  template <class P>
  static GateColumns<P> shifted(const GateColumns<P> &of, int64_t by) {
    auto at = [=](P *p) { return p ? p + by : nullptr; };
    return {at(of.decay), at(of.input), at(of.output), at(of.candidate)};
  }

  // The first block of a chain starts from `initial`, or zeros; the last one leaves `last`.
  void receive(const Place &p, int64_t turn, const T *initial, T *carry, int64_t carries = 1) const {
    const int64_t lanes = p.block.lanes();
    if (turn > 0)
      relay_.receive(p.chain, turn, carries * lanes, carry);
    else if (initial)
      std::memcpy(carry, initial + p.carry, size_t(lanes) * sizeof(T));
    else
      std::fill_n(carry, lanes, T(0));
  }
  void pass_on(const Place &p, int64_t turn, const T *carry, T *last, int64_t carries = 1) {
    const int64_t lanes = p.block.lanes();
    if (turn == segments_ - 1 && last) std::memcpy(last + p.carry, carry, size_t(lanes) * sizeof(T));
    relay_.pass_on(p.chain, turn, carries * lanes, carry);
  }

  const scanlib_problem &p_;
  const scanlib_gates &g_;
  const GateKernels<T> &kernels_;
  const LinearKernels<T> &scan_;
  const T *columns_, *initial_, *grad_, *grad_final_;
  const uint8_t *reset_;
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
