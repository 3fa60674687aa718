// The cases of one shape: its operands in memory in every way, and where sequences start.
#include <algorithm>

#include "driver.h"

using namespace scanlib_tests;

std::vector<Case> scanlib_tests::layouts(const std::vector<int64_t> &shape, int32_t axis, int32_t dtype,
                                         bool backward) {
  std::vector<Case> all;
  const Case base = plain(shape, axis, dtype, backward);
  all.push_back(base);
  all.back().holders = true;

  Case bare = base;
  for (int role : {SCANLIB_H0, SCANLIB_FINAL, SCANLIB_GRAD_FINAL, SCANLIB_GRAD_H0})
    bare.operand[role].dtype = SCANLIB_ABSENT;
  bare.flags = SCANLIB_REVERSE;
  bare.in_place = !backward;
  all.push_back(bare);

  Case channel = base;  // one `a` for each channel, then one for all
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A}) {
    if (channel.operand[role].dtype == SCANLIB_ABSENT) continue;
    channel.operand[role].strides.assign(shape.size(), 0);
    channel.operand[role].strides.back() = 1;
  }
  channel.values = Values::kNearOne;
  channel.flags = SCANLIB_CONJUGATE;
  all.push_back(channel);
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A})
    channel.operand[role].strides.assign(channel.operand[role].strides.size(), 0);
  channel.flags |= SCANLIB_REVERSE;
  all.push_back(channel);

  Case alternating = base;  // no two axes are one
  for (int role : {SCANLIB_A, SCANLIB_GRAD_A})
    for (size_t d = 0; d < alternating.operand[role].strides.size(); d += 2) alternating.operand[role].strides[d] = 0;
  all.push_back(alternating);

  Case halves = base;  // every other channel, outputs too
  for (Operand &operand : halves.operand)
    for (int64_t &stride : operand.strides) stride *= 2;
  halves.values = Values::kSigns;
  all.push_back(halves);

  Case backwards = base;  // all strides negative, for one operand only the time's
  for (Operand &operand : backwards.operand)
    for (int64_t &stride : operand.strides) stride = -stride;
  backwards.operand[SCANLIB_A].strides[size_t(axis)] *= -1;
  backwards.values = Values::kSpecial;
  all.push_back(backwards);

  Case fields = base;  // of packed records: elements at any address, any number of bytes apart
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    fields.operand[role].misaligned = 1 + role % 5;
    fields.operand[role].gap = role % 3 ? 3 : 0;
  }
  all.push_back(fields);
  return all;
}

namespace {

// Masks: of single elements, one for all channels, of sequences as wholes, of one byte for everything, in any order; from no
// start to starts alone.
void reset(Case &c, Random &random) {
  Operand &mask = c.operand[SCANLIB_RESET];
  mask = {SCANLIB_BOOL, contiguous(c.shape)};
  const int64_t kind = random.below(6);
  for (size_t d = 0; d < c.shape.size(); ++d) {
    const bool along_time = int(d) == c.axis;
    int64_t &stride = mask.strides[d];
    if ((kind == 0 && !along_time) || (kind == 1 && along_time) || (kind == 2 && random.below(2))) stride = 0;
    if (kind == 3) stride *= -1;
    if (kind == 4) stride = along_time ? 2 * stride : -2 * stride;
  }
  mask.gap = random.below(4) ? 0 : 2;
  const int32_t densities[] = {0, 60, 1000, 8000, 32768, 65536};
  c.resets = densities[random.below(6)];
}

// Offsets: of one segment, of some, of as many as there are steps, of more.
void pack(Case &c, Random &random) {
  const int64_t steps = c.shape[size_t(c.axis)], some = 2 + random.below(6);
  const int64_t counts[] = {steps ? 1 : 0, some, steps / 16 + 1, steps + 1, std::min<int64_t>(2 * steps, 9000) + some};
  const bool wide = random.below(2), apart = random.below(4) == 0;
  Operand &offsets = c.operand[SCANLIB_OFFSETS];
  offsets = {wide ? SCANLIB_I64 : SCANLIB_I32, std::vector<int64_t>(c.shape.size(), 0)};
  offsets.strides[size_t(c.axis)] = random.below(3) ? 1 : random.below(7) - 3;
  if (offsets.strides[size_t(c.axis)] == 0) offsets.strides[size_t(c.axis)] = 1;
  if (apart) offsets.misaligned = 1 + int(random.below(7)), offsets.gap = 1 + int(random.below(5));
  c.segments = counts[random.below(5)];
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!is_state(role) || !c.given(role)) continue;
    Operand &state = c.operand[role];
    // The segments outside of the channels, or the other way round.
    state.strides = contiguous(c.extents(role));
    if (random.below(2)) continue;
    int64_t channels = 1;
    for (size_t d = c.shape.size(); d-- > 0;) {
      if (int(d) == c.axis) continue;
      state.strides[d] = channels * c.segments;
      channels *= std::max<int64_t>(1, c.shape[d]);
    }
    state.strides[size_t(c.axis)] = 1;
    if (random.below(3)) continue;
    for (int64_t &stride : state.strides) stride *= -1;
  }
}

}  // namespace

std::vector<Case> scanlib_tests::with_starts(const std::vector<Case> &layouts, int count, Random &random) {
  std::vector<Case> all;
  for (int i = 0; i < count; ++i) {
    Case c = layouts[size_t(random.below(int64_t(layouts.size())))];
    if (random.below(2)) c.values = Values::kSpecial;
    random.below(2) ? reset(c, random) : pack(c, random);
    all.push_back(std::move(c));
  }
  return all;
}
