// qmm on CUDA: 16 outputs of a warp times x in shared memory.

#include "half2_math.h"

namespace mlx_dequant {

// 16 outputs x 4 * TK inputs of a weight that a warp holds together, as T: lane i has outputs
// 2 * (i / 4) and the next, inputs TK * (i % 4) and on. Both instructions below take 16 inputs as
// four pairs of pairs, one of each lane of an output. In which order inputs are added up is free,
// so they get four neighbours of each lane: a k_slice.
template <typename T, uint TK>
struct weight_fragment {
  uint pairs[2][TK / 2];
};

// N of a lane's inputs from `first` on.
template <uint N, typename V, typename T, uint TK>
__device__ inline void round_to(const V* w, uint output, uint first,
                                weight_fragment<T, TK>& weights) {
#pragma unroll
  for (uint i = 0; i < N / 2; ++i) {
    weights.pairs[output][first / 2 + i] = rounded_pair(w + 2 * i, T());
  }
}

// 16 outputs x BM sums that a warp holds together. Of eight rows of x, a lane has two neighbours
// for its first output and two for its second.
template <uint BM>
struct accumulator {
  float part[BM / 2];
};

template <uint BM>
__device__ inline void clear(accumulator<BM>& sum) {
#pragma unroll
  for (uint i = 0; i < BM / 2; ++i) sum.part[i] = 0.0f;
}

// Those of eight rows of x, [8, 16].
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
