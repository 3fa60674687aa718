// Mail between blocks. What is published travels in words that are written and read whole, each with a tag that is not zero, in
// memory that was zeroed before the launch. So nothing has to be ordered, and one look tells whether it is there and what it is.
#pragma once
#include "run.cuh"

namespace scanlib {

// A `Content` and a tag of 32 bits, which also stands where a word has parts to spare: all that is read of a word has to be made use of,
// or the compiler reads only the parts that are, one by one, and a tag may be there before its content.
template <class Content>
struct Mail {
  static_assert(sizeof(Content) % 4 == 0, "whole parts");
  static constexpr int kContent = int(sizeof(Content)) / 4;  // 32-bit parts
  static constexpr int kEach = kContent == 1 ? 1 : 3;        // of which a word takes so many, and the tag
  static constexpr int kWords = (kContent + kEach - 1) / kEach;
  using Word = Bytes<4 * (kEach + 1)>;
  union {
    Content content;
    unsigned part[kWords * kEach];
  };
  unsigned tag[kWords];  // of each word

  // A mail's words lie side by side, the first of them at `to`; each has the tag.
  __device__ __forceinline__ void send(Word *to, unsigned with) const {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      Word word;
#pragma unroll
      for (int i = 0; i < kEach; ++i) word.word[i] = w * kEach + i < kContent ? part[w * kEach + i] : with;
      word.word[kEach] = with;
      post(to + w, word);
    }
  }
  // Takes a look, of which nothing is used before there() is asked.
  __device__ __forceinline__ void receive(const Word *from) {
    Word word[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) word[w] = look(from + w);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      tag[w] = word[w].word[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        part[w * kEach + i] = word[w].word[i];
        if (w * kEach + i >= kContent && word[w].word[i] != word[w].word[kEach]) tag[w] = 0;
      }
    }
  }
  __device__ __forceinline__ void tag_all(unsigned as) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) tag[w] = as;
  }
  // Whether all of it was.
  __device__ __forceinline__ bool there() const {
    bool whole = true;
#pragma unroll
    for (int w = 0; w < kWords; ++w) whole = whole && tag[w] != 0;
    return whole;
  }
  // Whether all of it was, with this tag.
  __device__ __forceinline__ bool is(unsigned wanted) const {
    bool whole = true;
#pragma unroll
    for (int w = 0; w < kWords; ++w) whole = whole && tag[w] == wanted;
    return whole;
  }
};

}  // namespace scanlib
