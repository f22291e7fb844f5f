// qmm on CUDA: a warp multiplies 16 outputs by x in shared memory.

#include "half2_math.h"

namespace mlx_dequant {

// A fragment of the weight, of type T: 16 outputs x 4 * TK inputs, spread over a warp. Lane i holds
// outputs 2 * (i / 4) and 2 * (i / 4) + 1, and the TK inputs from TK * (i % 4) on. Both
// instructions, mma.sync and wgmma, take 16 inputs: two pairs of each of an output's four lanes.
// The order of the summation is free, so each lane gives four neighbouring inputs. These 16 inputs
// are a k-slice.
template <typename T, uint TK>
struct weight_fragment {
  uint pairs[2][TK / 2];
};

// Rounds N of a lane's inputs, from `first` on, to T.
template <uint N, typename V, typename T, uint TK>
__device__ inline void round_to(const V* w, uint output, uint first,
                                weight_fragment<T, TK>& weights) {
#pragma unroll
  for (uint i = 0; i < N / 2; ++i) {
    weights.pairs[output][first / 2 + i] = rounded_pair(w + 2 * i, T());
  }
}

// Eight neighbouring inputs of a row of x, in registers.
template <typename T>
struct octet {
  uint words[4];
};

template <typename T>
__device__ inline void load_octet(const T* x, octet<T>& to) {
  load_words<4>((const uint*)x, to.words);
}

template <typename T>
__device__ inline void clear(octet<T>& to) {
#pragma unroll
  for (uint i = 0; i < 4; ++i) to.words[i] = 0;
}

// Puts a value where nothing was put since `clear`.
template <typename T>
__device__ inline void put(octet<T>& to, uint i, T value) {
  to.words[i / 2] |= uint(as_type<ushort>(value)) << i % 2 * 16;
}

// The accumulator of 16 outputs x BM rows of x, spread over a warp. Of every eight rows of x, a
// lane holds two neighbours for its first output and the same two for its second.
template <uint BM>
struct accumulator {
  float part[BM / 2];
};

template <uint BM>
__device__ inline void clear(accumulator<BM>& sum) {
#pragma unroll
  for (uint i = 0; i < BM / 2; ++i) sum.part[i] = 0.0f;
}

// Stores the sums of eight rows of x as [8, 16].
template <uint BM>
__device__ inline void store_sums(const accumulator<BM>& sum, uint eighth, float* to) {
  uint lane = threadIdx.x % 32;
  to += lane % 4 * 32 + lane / 4 * 2;
  const float* part = sum.part + eighth * 4;
  *(float2*)to = make_float2(part[0], part[2]);
  *(float2*)(to + 16) = make_float2(part[1], part[3]);
}

}  // namespace mlx_dequant

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "qmm_wgmma.h"
#else
#include "qmm_mma.h"
#endif
