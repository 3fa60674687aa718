// Carriers: warps that carry the states of sequences from tile to tile, where lanes are few.
//
// The first blocks of a launch to start become carriers, the others work on tiles (lookback.cuh). A carrier has one lane of a group.
// It reads what the tiles do to a carry, their partials, in order, and posts the state before each tile as soon as its partial and those
// of all tiles before it are there. Of a batch of tiles each of its threads has kEach. A team of `team` carriers, warps of one
// block, takes turns at the batches of a lane, and hands the state on in shared memory.
//
// The state before a tile is always the same expression: that before its batch, and what the tiles since do, joined in the order of
// a scan over the threads. It depends on the tile's number, and never on what was there first.
//
// Where that expression cannot be relied on (summary.cuh), the state before a tile is what the tile before it has left. Its block was
// told to send that, in the place of its partial, and tiles follow one another as in a serial loop.
#pragma once
#include "records.cuh"

namespace scanlib {

constexpr unsigned kEach = SCANLIB_CARRIERS;
constexpr unsigned kBatch = 32 * kEach;

// The tags of a carry: whether the tile is to send its last state. And that of a last state; those of partials, if checked, are
// larger.
enum CarryTag : unsigned { kCarried = 1, kSendEnd = 2 };
constexpr unsigned kEnd = 1;

// Of each lane the partials of all its tiles lie side by side, as carriers read them.
__device__ __forceinline__ RecordMail::Word *partial_at(const ScanParams &p, unsigned group, int lane_, unsigned tile) {
  const long long number = ((long long)group * kWidth + lane_) * p.tiles + tile;
  return reinterpret_cast<RecordMail::Word *>(p.partials) + number * RecordMail::kWords;
}
__device__ __forceinline__ StateMail::Word *carry_at(const ScanParams &p, unsigned group, int lane_, unsigned tile) {
  return mail_at<StateMail>(p.ends, number_of(p, tile, group), lane_);
}

// ------------------------------------------------------------------------------------------------------------- a carrier

struct CarrierMemory {
  Place place[kWarps];
  StateMail::Word handed[kWarps][StateMail::kWords];  // to each carrier of a block
};

class Carrier {
 public:
  // One of all, by its number.
  __device__ __forceinline__ Carrier(const ScanParams &p, unsigned number, CarrierMemory &memory)
      : p_(p), memory_(memory), thread_(own_thread()), member_(number % unsigned(p.team)) {
    const unsigned unit = number / unsigned(p.team);
    group_ = unit / kWidth;
    lane_ = int(unit % kWidth);
  }

  __device__ __forceinline__ void work() {
    const unsigned batches = unsigned((p_.tiles + kBatch - 1) / kBatch);
    if (member_ >= batches) return;
    look_for(member_, 0);
#pragma unroll 1
    for (unsigned batch = member_; batch < batches; batch += unsigned(p_.team)) carry_over(batch, batch + 1 < batches);
  }

 private:
  struct Look {
    RecordMail of[kEach];
  };

  // Where the state before a batch is handed to whoever has that.
  __device__ __forceinline__ StateMail::Word *handed(unsigned batch) const {
    return memory_.handed[unsigned(warp()) - member_ + batch % unsigned(p_.team)];
  }
  // The first tile of a batch that is the thread's, and how many are.
  __device__ __forceinline__ unsigned first_of(unsigned batch) const { return batch * kBatch + thread_ * kEach; }
  __device__ __forceinline__ unsigned count_of(unsigned batch) const {
    const unsigned first = first_of(batch), left = unsigned(p_.tiles) > first ? unsigned(p_.tiles) - first : 0;
    return left < kEach ? left : kEach;
  }
  // Takes a look at the partials of those from number `there` on.
  __device__ __forceinline__ void look_for(unsigned batch, unsigned there) {
    const RecordMail::Word *at = partial_at(p_, group_, lane_, first_of(batch));
    const unsigned count = count_of(batch);
#pragma unroll
    for (unsigned i = 0; i < kEach; ++i) {
      if (i >= there && i < count)
        looked_.of[i].receive(at + i * RecordMail::kWords);
      else
        looked_.of[i].tag_all(0);
    }
  }

  // Carries the state over the tiles of a batch, whose partials were looked for, and looks for those of the carrier's next one.
  __device__ __forceinline__ void carry_over(unsigned batch, bool another) {
    const unsigned count = count_of(batch);
    unsigned there = 0, sent = 0;  // so many of the first ones
    bool entered = batch == 0, all_before = false, complete = false;
    bool handed_on = !another || thread_ < 31;
    State carry{};
    if (batch == 0) carry = first_state();
    Summary<Op> before = nothing<Op>(), all = before;
#pragma unroll
    for (unsigned i = 0; i < kEach; ++i) own_.of[i].tag_all(0);
#pragma unroll 1
    for (;;) {
      if (!complete) {
        unsigned now = 0;
#pragma unroll
        for (unsigned i = 0; i < kEach; ++i) {
          if (i >= there && looked_.of[i].there()) own_.of[i] = looked_.of[i];
          now += now == i && i < count && own_.of[i].there();
        }
        const unsigned incomplete = ballot(now < count);
        complete = incomplete == 0;
        all_before = !(incomplete & ((1u << thread_) - 1));
        // What comes next is on its way meanwhile.
        look_for(complete ? batch + unsigned(p_.team) : batch, complete ? 0 : now);
        if (ballot(now > there)) {
          there = now;
          scan(there, before, all);
        } else {
          wait_a_little();
        }
      }
      // The next carrier waits for what this one makes of the batch: that comes first.
      if (!entered) entered = receive(batch, carry, complete);
      __syncwarp();  // all have read what was handed, before the next is, to the same place perhaps
      if (entered && complete && !handed_on) handed_on = hand_on(batch, all, carry);
      if (entered && all_before && sent < there) post(batch, there, before, all, carry, sent);
      if (!ballot(sent < count || !handed_on)) return;
      if (complete) wait_a_little();  // for what a tile has left
    }
  }

  __device__ __forceinline__ State first_state() {
    Place &place = memory_.place[warp()];
    find_place<false>(p_, place, group_, 0, 0);
    __syncwarp();
    return load_state(p_, kEnters, place, kOfAll, lane_);
  }
  // Takes a look at the state before a batch, or waits for it.
  __device__ __forceinline__ bool receive(unsigned batch, State &carry, bool waits) const {
    StateMail mail;
    mail.receive(handed(batch));
    while (waits && !mail.is(batch)) {
      wait_for_a_warp();
      mail.receive(handed(batch));
    }
    if (!mail.is(batch)) return false;
    carry = mail.content;
    return true;
  }

  // What the tiles of earlier threads do, and what those do with the thread's own.
  __device__ __forceinline__ void scan(unsigned there, Summary<Op> &before, Summary<Op> &all) const {
    all = nothing<Op>();
#pragma unroll
    for (unsigned i = 0; i < kEach; ++i)
      if (i < there) all = joined(all, opened(own_.of[i]));
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const Summary<Op> earlier = shuffle_up(all, distance);
      if (thread_ >= unsigned(distance)) all = joined(earlier, all);
    }
    const Summary<Op> earlier = shuffle_up(all, 1);
    before = thread_ > 0 ? earlier : nothing<Op>();
  }
  static __device__ __forceinline__ bool reliable(const Summary<Op> &summary, State carry) {
    return safe(summary) && safe_carry<Op>(carry);
  }

  // Sends the states before those of the thread's tiles of which it is known. Whether a tile is to send its end is asked of the very
  // expression that whoever waits for it asks: of `all`, after the last.
  __device__ __forceinline__ void post(unsigned batch, unsigned there, const Summary<Op> &before,
                                       const Summary<Op> &all, State carry, unsigned &sent) const {
    const unsigned first = first_of(batch), count = count_of(batch);
    Summary<Op> since = before;
#pragma unroll
    for (unsigned i = 0; i < kEach; ++i) {
      if (i >= there) break;
      const Summary<Op> next = i + 1 == count ? all : joined(since, opened(own_.of[i]));
      if (i == sent) {
        const bool begins = thread_ == 0 && i == 0;
        State state = begins ? carry : applied(since, carry);
        if (begins || reliable(since, carry) || end_of(first + i - 1, state)) {
          send_state(carry_at(p_, group_, lane_, first + i), state, reliable(next, carry) ? kCarried : kSendEnd);
          ++sent;
        }
      }
      since = next;
    }
  }
  // Takes a look at what a tile has left; and another when it is there, for of the first not all is made use of (mail.cuh).
  __device__ __forceinline__ bool end_of(unsigned tile, State &state) const {
    RecordMail mail;
    mail.receive(partial_at(p_, group_, lane_, tile));
    if (!mail.is(kEnd)) return false;
    mail.receive(partial_at(p_, group_, lane_, tile));
    state = mail.content.local;
    return true;
  }
  // The state after a batch, to whoever has the next.
  __device__ __forceinline__ bool hand_on(unsigned batch, const Summary<Op> &all, State carry) const {
    State state = applied(all, carry);
    if (!reliable(all, carry) && !end_of(first_of(batch) + kEach - 1, state)) return false;
    send_state(handed(batch + 1), state, batch + 1);
    return true;
  }

  const ScanParams &p_;
  CarrierMemory &memory_;
  const unsigned thread_;  // in its warp
  unsigned member_, group_;
  int lane_;
  Look own_, looked_;  // what is there of a batch, and what is on its way
};

// ------------------------------------------------------------------------------------------- what blocks do beside a tile

struct CarryMemory {
  State carry[kWarpLanes];
  unsigned tag[kWarpLanes];
};
using Looked = StateMail;
constexpr bool kLooksEarly = true;

__device__ __forceinline__ bool looks() { return thread() < kWarpLanes; }
__device__ __forceinline__ StateMail::Word *own_carry(const ScanParams &p, const Place &place) {
  return carry_at(p, unsigned(place.group), lane(), unsigned(place.tile));
}
__device__ __forceinline__ RecordMail::Word *own_partial(const ScanParams &p, const Place &place) {
  return partial_at(p, unsigned(place.group), lane(), unsigned(place.tile));
}

// See joints.cuh.
__device__ __forceinline__ unsigned publish(const ScanParams &p, const Place &place, const Summary<Op> &whole) {
  if (own_slice() == 0) send_summary(own_partial(p, place), whole);
  return 0;
}
__device__ __forceinline__ void complete(const ScanParams &, const Place &, unsigned, CarryMemory &) {}
__device__ __forceinline__ void take_look(const ScanParams &p, const Place &place, Looked &looked) {
  looked.tag_all(0);
  if (looks()) looked.receive(own_carry(p, place));
}
__device__ __forceinline__ State look_back(const ScanParams &p, const Place &place, Looked &looked, ScanMemory<Op> &,
                                           CarryMemory &memory) {
  if (looks()) {
    while (!looked.there()) {
      wait_a_little();
      looked.receive(own_carry(p, place));
    }
    memory.carry[lane()] = looked.content;
    memory.tag[lane()] = looked.tag[0];
  }
  __syncthreads();
  return memory.carry[own_lane()];
}
__device__ __forceinline__ void tell_end(const ScanParams &p, const Place &place, State end,
                                         const CarryMemory &memory) {
  if (memory.tag[own_lane()] != kSendEnd) return;
  RecordMail mail;
  mail.content = {Op::unit(), end};
  mail.send(own_partial(p, place), kEnd);
}

struct RoleMemory {
  CarrierMemory carriers;
  unsigned number;
};
// Whether the block drew the part of carriers; if so, it has played it.
__device__ __forceinline__ bool was_carrier(const ScanParams &p, RoleMemory &memory) {
  if (thread() == 0) memory.number = atomicAdd(p.carrier_tickets, 1u);
  if (thread() < kWarps * StateMail::kWords) memory.carriers.handed[0][thread()] = {};
  __syncthreads();
  const unsigned number = memory.number;
  __syncthreads();
  if (number >= unsigned(p.carriers)) return false;
  const unsigned carrier = number * kWarps + unsigned(warp());
  if (carrier < unsigned(p.groups) * kWidth * unsigned(p.team)) Carrier(p, carrier, memory.carriers).work();
  return true;
}

}  // namespace scanlib
