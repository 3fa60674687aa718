// Walks stretches of time through the inner loops: between the starts of sequences (starts.h), and as much at a time as panels hold.
// The first and the last step of a sequence's walk back are walked on their own, with others in the place of the operands.
#pragma once
#include <algorithm>

#include "grad_sums.h"
#include "kernels.h"
#include "operands.h"
#include "problem.h"
#include "schedule.h"
#include "scratch.h"
#include "starts.h"

namespace scanlib {

template <class Op>
class Stretches {
  using T = typename Op::Element;
  using Source = typename Operands<T>::Source;

 public:
  Stretches(const scanlib_problem &problem, const Schedule &schedule, const Kernels<Op> &kernels,
            const Operands<T> &operands, const Starts<Op> &starts, const GradSums<T> &sums)
      : p_(problem), s_(schedule), kernels_(kernels), operands_(operands), starts_(starts), sums_(sums) {
    if (s_.backward) way_ = p_.flags & SCANLIB_CONJUGATE ? Way::BackConjugated : Way::Back;
  }

  // That of RESET: direct where the inner loops can read it as it lies, or where there is none.
  Stream mask_stream(const Place &place) const {
    Stream s{};
    s.direct = true;
    if (!starts_.by_mask()) return s;
    s = stream(SCANLIB_RESET, place);
    s.direct = s_.rows ? s.step == (s_.down ? -1 : 1) : s.lane == 0 || s.lane == 1;
    return s;
  }

  bool conjugates() const { return way_ == Way::BackConjugated; }

  // Walks the steps of a group, states in and out in w.state.
  void walk(Scratch<Op> &w, const Unit &u) const {
    if constexpr (Op::kDifferentiable) {
      if (s_.backward) return backward(w, u, w.state);
    }
    forward(w, u, w.state);
  }

  // What the steps do to any carry: w.factor and w.local; whether it is nothing, as a sequence starts. In backward the coefficients lie
  // one step earlier, so k0 > 0.
  bool summarize(Scratch<Op> &w, const Unit &u) const {
    const Stream a = stream(SCANLIB_A, u.place), x = stream(s_.backward ? SCANLIB_GRAD_H : SCANLIB_X, u.place);
    const Stream mask = mask_stream(u.place);
    const int64_t shift = s_.backward ? -1 : 0, lanes = u.lanes;
    const int64_t tile = tile_steps(a.direct && x.direct && mask.direct, lanes);
    const Operands<T> &o = operands_;
    const typename Op::Factor unit = Op::unit();
    for (int i = 0; i < Op::kParts; ++i) std::fill(w.factor.part[i], w.factor.part[i] + lanes, unit.part[i]);
    std::fill(w.local, w.local + lanes, Op::nothing());
    int64_t next = starts_.next(u.k0, u.k1);
    const bool started = next < u.k1;
    for (int64_t k = u.k0, n; k < u.k1; k += n) {
      const bool begins = k == next;
      if (begins) {
        starts_.enter(u, k, w.local);
        next = starts_.next(k + 1, u.k1);
      }
      const bool idle = begins && s_.backward;
      n = idle ? 1 : std::min(tile, next - k);
      if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j)
          kernels_.rows_summary(n, idle ? w.idle + j : o.row_in(a, k + shift, n, j, w.panel[0]),
                                o.row_in(x, k, n, j, w.panel[1]), w.factor.from(j), w.local + j, s_.down, way_,
                                row_mask(mask, k + shift, n, j, w.bytes[0]));
      } else {
        const Source pa = idle ? Source{w.idle, 0} : o.columns_in(a, k + shift, n, lanes, w.panel[0].data);
        const Source px = o.columns_in(x, k, n, lanes, w.panel[1].data);
        kernels_.columns_summary(n, lanes, pa.data, pa.step, px.data, px.step, w.factor, w.local, way_,
                                 columns_mask(mask, k + shift, n, lanes, w.bytes[0]));
      }
    }
    return started;
  }

 private:
  Stream stream(int role, const Place &place) const { return operands_.stream(role, place); }
  static Mask columns_mask(const Stream &s, int64_t k, int64_t n, int64_t lanes, char *panel) {
    if (!s.size) return {};
    if (s.direct) return {s.at(k, 0), s.step, s.lane};
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < lanes; ++j) panel[i * lanes + j] = *s.at(k + i, j);
    return {panel, lanes, 1};
  }
  Mask row_mask(const Stream &s, int64_t k, int64_t n, int64_t lane, char *panel) const {
    if (!s.size) return {};
    if (s.direct) return {operands_.row(s, k, n, lane), 0, s.lane};
    if (s.lane == 0 && lane > 0) return {panel, 0, 0};  // filled for the first
    for (int64_t i = 0; i < n; ++i) panel[s_.down ? n - 1 - i : i] = *s.at(k + i, lane);
    return {panel, 0, 0};
  }

  int64_t tile_steps(bool all_direct, int64_t lanes) const {
    if (all_direct) return INT64_MAX;
    return s_.rows ? kPanel : std::max<int64_t>(1, Scratch<Op>::panel_count(s_) / lanes);
  }

  // Where all lanes start before step k: leaves the sequence before, and enters.
  void start(Scratch<Op> &w, const Unit &u, int64_t k, T *state) const {
    starts_.leave(u, k, state, conjugates(), w.edge);
    starts_.enter(u, k, state);
  }

  void forward(Scratch<Op> &w, const Unit &u, T *state) const {
    const Place &place = u.place;
    const Stream a = stream(SCANLIB_A, place), x = stream(SCANLIB_X, place), h = stream(SCANLIB_H, place);
    const Stream mask = mask_stream(place);
    const int64_t lanes = u.lanes, tile = tile_steps(a.direct && x.direct && h.direct && mask.direct, lanes);
    const Operands<T> &o = operands_;
    int64_t next = starts_.next(u.k0, u.k1);
    for (int64_t k = u.k0, n; k < u.k1; k += n) {
      if (k == next) {
        start(w, u, k, state);
        next = starts_.next(k + 1, u.k1);
      }
      n = std::min(tile, next - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_forward(n, lanes, o.direct_row(a, k, n, 0), a.lane_elements(), o.direct_row(x, k, n, 0),
                              x.lane_elements(), o.direct_row(h, k, n, 0), h.lane_elements(), state, s_.down,
                              row_mask(mask, k, n, 0, nullptr));
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out = o.row_out(h, k, n, j, w.panel[2].data);
          kernels_.rows_forward(n, kAlone, o.row_in(a, k, n, j, w.panel[0]), 0, o.row_in(x, k, n, j, w.panel[1]), 0,
                                out, 0, state + j, s_.down, row_mask(mask, k, n, j, w.bytes[0]));
          o.row_flush(h, k, n, j, out);
        }
      } else {
        const Source pa = o.columns_in(a, k, n, lanes, w.panel[0].data);
        const Source px = o.columns_in(x, k, n, lanes, w.panel[1].data);
        const Source ph = o.columns_out(h, k, lanes, w.panel[2].data);
        kernels_.columns_forward(n, lanes, pa.data, pa.step, px.data, px.step, ph.data, ph.step, state,
                                 columns_mask(mask, k, n, lanes, w.bytes[0]));
        o.columns_flush(h, k, n, lanes, ph.data);
      }
    }
  }

  // Step k of the backward walk uses a of step k - 1 (before the first of a sequence: one without effect) and h of step k + 1 (after
  // the last: h0, in `edge`).
  void backward(Scratch<Op> &w, const Unit &u, T *state) const {
    const Place &place = u.place;
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place), g = stream(SCANLIB_GRAD_H, place);
    const Stream grad_a = stream(SCANLIB_GRAD_A, place), grad_x = stream(SCANLIB_GRAD_X, place);
    const Stream reset = mask_stream(place);
    const bool direct = a.direct && h.direct && g.direct && grad_a.direct && grad_x.direct && reset.direct;
    const int64_t lanes = u.lanes, tile = tile_steps(direct, lanes);
    const int64_t last = p_.time.extent - 1, k0 = u.k0, k1 = u.k1;
    const Operands<T> &o = operands_;
    int64_t next = starts_.next(k0, k1 + 1);
    for (int64_t k = k0, n; k < k1; k += n) {
      const bool begins = k == 0 || k == next;
      if (k == next) {
        start(w, u, k, state);
        next = starts_.next(k + 1, k1 + 1);
      }
      const bool ends = k == last || k + 1 == next;
      if (ends) starts_.states_behind(u, k, w.edge);
      n = begins || ends ? 1 : std::min(tile, std::min({k1, last, next - 1}) - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_backward(
            n, lanes, begins ? w.idle : o.direct_row(a, k - 1, n, 0), begins ? 1 : a.lane_elements(),
            o.direct_row(g, k, n, 0), g.lane_elements(), ends ? w.edge : o.direct_row(h, k + 1, n, 0),
            ends ? 1 : h.lane_elements(), o.direct_row(grad_x, k, n, 0), grad_x.lane_elements(),
            o.direct_row(grad_a, k, n, 0), grad_a.lane_elements(), state, s_.down, way_,
            begins ? Mask{} : row_mask(reset, k - 1, n, 0, nullptr), row_mask(reset, k, n, 0, nullptr));
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out_a = o.row_out(grad_a, k, n, j, w.panel[3].data), *out_x = o.row_out(grad_x, k, n, j, w.panel[4].data);
          kernels_.rows_backward(
              n, kAlone, begins ? w.idle : o.row_in(a, k - 1, n, j, w.panel[0]), 0, o.row_in(g, k, n, j, w.panel[1]), 0,
              ends ? w.edge + j : o.row_in(h, k + 1, n, j, w.panel[2]), 0, out_x, 0, out_a, 0, state + j, s_.down, way_,
              begins ? Mask{} : row_mask(reset, k - 1, n, j, w.bytes[0]), row_mask(reset, k, n, j, w.bytes[1]));
          o.row_flush(grad_x, k, n, j, out_x);
          if (s_.reduce == Reduce::None)
            o.row_flush(grad_a, k, n, j, out_a);
          else
            sums_.add_row(w.sums, j, k - k0, n, k1 - k0, out_a);
        }
      } else {
        const Source pa = begins ? Source{w.idle, 0} : o.columns_in(a, k - 1, n, lanes, w.panel[0].data);
        const Source pg = o.columns_in(g, k, n, lanes, w.panel[1].data);
        const Source ph = ends ? Source{w.edge, 0} : o.columns_in(h, k + 1, n, lanes, w.panel[2].data);
        const Source pga = o.columns_out(grad_a, k, lanes, w.panel[3].data);
        const Source pgx = o.columns_out(grad_x, k, lanes, w.panel[4].data);
        kernels_.columns_backward(n, lanes, pa.data, pa.step, pg.data, pg.step, ph.data, ph.step, pgx.data, pgx.step,
                                  pga.data, pga.step, state, way_,
                                  begins ? Mask{} : columns_mask(reset, k - 1, n, lanes, w.bytes[0]),
                                  columns_mask(reset, k, n, lanes, w.bytes[1]));
        o.columns_flush(grad_x, k, n, lanes, pgx.data);
        if (s_.reduce == Reduce::None)
          o.columns_flush(grad_a, k, n, lanes, pga.data);
        else
          sums_.add_columns(w.sums, k - k0, n, lanes, pga.data);
      }
    }
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Kernels<Op> &kernels_;
  const Operands<T> &operands_;
  const Starts<Op> &starts_;
  const GradSums<T> &sums_;
  Way way_ = Way::Forward;
};

}  // namespace scanlib
