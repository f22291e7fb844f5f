// What qmm_mma.h and qmm_wgmma.h share: a warp multiplies 16 outputs by x in shared memory.

#include "half2_math.h"

namespace mlx_dequant {

struct overlapped_steps;
typedef overlapped_steps whole_steps;

// A fragment of the weight, of type T: 16 outputs x 4 * TK inputs, spread over a warp. Lane i holds
// outputs 2 * (i / 4) and 2 * (i / 4) + 1, and the TK inputs from TK * (i % 4) on. Both
// instructions, mma.sync and wgmma, take 16 inputs: two pairs of each of an output's four lanes.
// The order of the summation is free, so each lane gives four neighbouring inputs. These 16 inputs
// are a k-slice. Pair i of output k is at 2 * i + k.
template <typename T, uint TK>
struct weight_fragment {
  uint pairs[TK];
};

// Rounds N of a lane's inputs, from `first` on, to T.
template <uint N, typename W, typename V, typename T, uint TK>
inline void round_to(const W&, const V* w, uint output, uint first,
                     weight_fragment<T, TK>& weights) {
#pragma unroll
  for (uint i = 0; i < N / 2; ++i) {
    weights.pairs[first + 2 * i + output] = rounded_pair(w + 2 * i, T());
  }
}

// Rounds 16 outputs of a lane's input: of its four lanes' eight inputs from `first` on, the one that
// lane / 4 says. Lanes exchange them, as pairs of outputs. The lanes' places are such that a warp's
// 32 words lie in 32 banks, when they are stored as when they are loaded.
template <uint N, typename W, typename T, uint TK>
inline void round_columns(const W& space, const float* outputs, uint, uint first,
                          weight_fragment<T, TK>& weights) {
  static_assert(N == 16, "all outputs of a warp");
  uint index = space.lane / 4, quarter = space.lane % 4;
  uint* block = (uint*)space.exchange + quarter * 64;
#pragma unroll
  for (uint k = 0; k < 8; ++k) {
    block[(index * 8 + index / 4 * 4) ^ quarter * 9 ^ k] = rounded_pair(outputs + 2 * k, T());
  }
  __syncwarp();
  uint pairs[8];
#pragma unroll
  for (uint k = 0; k < 8; ++k) pairs[k] = block[index ^ quarter * 9 ^ (k * 8 + k / 4 * 4)];
  __syncwarp();
#pragma unroll
  for (uint i = 0; i < 4; ++i) {
    weights.pairs[first + 2 * i] = __byte_perm(pairs[2 * i], pairs[2 * i + 1], 0x5410);
    weights.pairs[first + 2 * i + 1] = __byte_perm(pairs[2 * i], pairs[2 * i + 1], 0x7632);
  }
}

// Eight neighbouring inputs of a row of x, in registers.
template <typename T>
struct octet {
  uint words[4];
};

template <typename T>
inline void load_octet(const T* x, octet<T>& to) {
  load_words<4>((const uint*)x, to.words);
}

template <typename T>
inline void clear(octet<T>& to) {
#pragma unroll
  for (uint i = 0; i < 4; ++i) to.words[i] = 0;
}

// Puts a value where nothing was put since `clear`.
template <typename T>
inline void put(octet<T>& to, uint i, T value) {
  to.words[i / 2] |= uint(as_type<ushort>(value)) << i % 2 * 16;
}

// The accumulator of 16 outputs x BM rows of x, spread over a warp. Of every eight rows of x, a
// lane holds two neighbours for its first output and the same two for its second.
template <uint BM>
struct accumulator {
  float part[BM / 2];
};

template <uint BM>
inline void clear(accumulator<BM>& sum) {
#pragma unroll
  for (uint i = 0; i < BM / 2; ++i) sum.part[i] = 0.0f;
}

// Stores the sums of eight rows of x as [8, 16].
template <uint BM>
inline void store_sums(const accumulator<BM>& sum, uint eighth, float* to) {
  uint lane = threadIdx.x % 32;
  to += lane % 4 * 32 + lane / 4 * 2;
  const float* part = sum.part + eighth * 4;
  *(float2*)to = make_float2(part[0], part[2]);
  *(float2*)(to + 16) = make_float2(part[1], part[3]);
}

}  // namespace mlx_dequant
