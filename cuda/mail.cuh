// Mail between blocks. What is published travels in words that are written and read whole, each with a tag that is not zero, in
// memory that was zeroed before the launch. So nothing has to be ordered, and one look tells whether it is there and what it is.
#pragma once
#include "run.cuh"

namespace scanlib {

// A `Content` and a tag of 32 bits. In memory lie the first words of all lanes of a tile, then the second ones.
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
  unsigned tag[kWords];  // that of the content, and again for the other words

  static __device__ __forceinline__ Word *place(char *mails, unsigned number) {
    return reinterpret_cast<Word *>(mails) + (long long)number * (kWords * kWidth) + lane();
  }
  __device__ __forceinline__ void send(char *mails, unsigned number) const {
    Word *to = place(mails, number);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      Word word;
#pragma unroll
      for (int i = 0; i < kEach; ++i) word.word[i] = w * kEach + i < kContent ? part[w * kEach + i] : 0;
      word.word[kEach] = tag[0];
      post(to + w * kWidth, word);
    }
  }
  // Takes a look, of which nothing is used before there() is asked.
  __device__ __forceinline__ void receive(char *mails, unsigned number) {
    const Word *from = place(mails, number);
    Word word[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) word[w] = look(from + w * kWidth);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) part[w * kEach + i] = word[w].word[i];
      tag[w] = word[w].word[kEach];
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
};

}  // namespace scanlib
