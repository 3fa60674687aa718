// What tiles tell one another: what each does to a carry, and states.
#pragma once
#include "mail.cuh"

namespace scanlib {

// A summary without its bounds, which are in the tag.
struct Record {
  Op::Factor factor;
  State local;
};
using RecordMail = Mail<Record>;
static_assert(RecordMail::kWords * sizeof(RecordMail::Word) <= 4 * sizeof(Value), "room for it (native/cuda_cut.h)");
using StateMail = Mail<State>;

__device__ __forceinline__ void send_summary(RecordMail::Word *to, const Summary<Op> &summary) {
  RecordMail mail;
  mail.content = {summary.factor, summary.local};
  mail.send(to, packed(summary.most));
}
__device__ __forceinline__ Summary<Op> opened(const RecordMail &mail) {
  return {mail.content.factor, mail.content.local, unpacked<Op>(mail.tag[0])};
}
__device__ __forceinline__ void send_state(StateMail::Word *to, State state, unsigned tag) {
  StateMail mail;
  mail.content = state;
  mail.send(to, tag);
}

// Of `base`, the mail of a lane of the tile, bundle or stack of that number.
template <class AnyMail>
__device__ __forceinline__ typename AnyMail::Word *mail_at(char *base, unsigned number, int lane_) {
  return reinterpret_cast<typename AnyMail::Word *>(base) + ((long long)number * kWidth + lane_) * AnyMail::kWords;
}

// The ticket of a tile; the plan sees to it that there are fewer than 2^31.
__device__ __forceinline__ unsigned number_of(const ScanParams &p, unsigned tile, unsigned group) {
  return tile * unsigned(p.groups) + group;
}
__device__ __forceinline__ unsigned number_of(const ScanParams &p, const Place &place) {
  return number_of(p, unsigned(place.tile), unsigned(place.group));
}

}  // namespace scanlib
