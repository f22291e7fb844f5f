// qmm on Metal: a simdgroup multiplies 16 outputs by x in threadgroup memory, as 8 x 8 matrices.

#include <metal_simdgroup_matrix>

namespace mlx_dequant {

// Steps follow each other: other threadgroups run in the meantime.
struct steps_in_turn;
typedef steps_in_turn whole_steps;

// A fragment of the weight, of type T: 16 outputs x 4 * TK inputs, in threadgroup memory, so that it
// takes no registers. It lies there as k-slices of 16 inputs, four of each of an output's four lanes,
// and a k-slice as four 8 x 8 matrices. Lane i gives outputs 2 * (i / 4) and 2 * (i / 4) + 1, and the
// TK inputs from TK * (i % 4) on. The order of the summation is free.
template <typename T, uint TK>
struct weight_fragment {};

// What a thread knows of its simdgroup, and where that has its fragment.
template <typename T>
struct workspace {
  threadgroup T* weights;
  uint thread_index, lane;
};

template <uint TK, typename T>
inline void start(thread workspace<T>& space, threadgroup T* memory, uint thread_index) {
  space.weights = memory + thread_index / 32 * 64 * TK;
  space.thread_index = thread_index;
  space.lane = thread_index % 32;
}

// The type in which weights for fragments of X are computed, where scale_traits say S.
template <typename X, typename S>
struct compute_type {
  typedef float type;
};

// The place of an output and a lane's input in the fragment; four inputs are contiguous.
template <typename T>
inline threadgroup T* place(thread const workspace<T>& space, uint output, uint input) {
  uint inner = space.lane % 4 * 4 + input % 4;
  return space.weights + output / 8 * 128 + inner / 8 * 64 + output % 8 * 8 + inner % 8 +
         input / 4 * 256;
}

// Rounds N of a lane's inputs, from `first` on, to T.
template <uint N, typename T, uint TK>
inline void round_to(thread const workspace<T>& space, thread const float* w, uint output,
                     uint first, thread weight_fragment<T, TK>&) {
  threadgroup T* to = place(space, space.lane / 4 * 2, 0) + output * 8 + first / 4 * 256;
#pragma unroll
  for (uint i = 0; i < N / 4; ++i) {
    *(threadgroup vec<T, 4>*)(to + i * 256) =
        vec<T, 4>(T(w[4 * i]), T(w[4 * i + 1]), T(w[4 * i + 2]), T(w[4 * i + 3]));
  }
}

// Rounds N of the 16 outputs, from `output` on, of a lane's input: of its four lanes' eight inputs
// from `first` on, the one that lane / 4 says.
template <uint N, typename T, uint TK>
inline void round_columns(thread const workspace<T>& space, thread const float* w, uint output,
                          uint first, thread weight_fragment<T, TK>&) {
  threadgroup T* to = place(space, output, space.lane / 4) + first / 4 * 256;
#pragma unroll
  for (uint k = 0; k < N; ++k) to[k / 8 * 128 + k % 8 * 8] = T(w[k]);
}

// The accumulator of 16 outputs x BM rows of x, spread over a simdgroup.
template <uint BM>
struct accumulator {
  simdgroup_float8x8 part[2][BM / 8];
};

template <uint BM>
inline void clear(thread accumulator<BM>& sum) {
#pragma unroll
  for (uint i = 0; i < BM / 8; ++i) {
#pragma unroll
    for (uint k = 0; k < 2; ++k) {
      sum.part[k][i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }
}

// Stores the sums of eight rows of x as [8, 16].
template <uint BM>
inline void store_sums(thread accumulator<BM>& sum, uint eighth, threadgroup float* to) {
#pragma unroll
  for (uint k = 0; k < 2; ++k) {
    simdgroup_store(sum.part[k][eighth], to + k * 8, 16, ulong2(0, 0), true);
  }
}

// The offset of an input of a row of x in a tile of x: BM rows x 4 * TK inputs. `swizzle_width`
// inputs from there are contiguous. A tile holds one k-slice after the other, each as the 8 x 8
// matrices that are loaded.
enum { swizzle_width = 4 };
template <uint BM, uint TK>
inline uint swizzled_offset(uint row, uint input) {
  uint k_slice = input % TK / 4;
  uint inner = input / TK * 4 + input % 4;
  return k_slice * BM * 16 + row / 8 * 128 + inner / 8 * 64 + row % 8 * 8 + inner % 8;
}

template <typename T>
inline void store_swizzled(thread const float* v, device T* to) {
  store<4>(to, v);
}

// Eight neighbouring inputs of a row of x, in registers.
template <typename T>
struct octet {
  T values[8];
};

template <typename T>
inline void load_octet(device const T* x, thread octet<T>& to) {
#pragma unroll
  for (uint i = 0; i < 8; ++i) to.values[i] = x[i];
}

template <typename T>
inline void clear(thread octet<T>& to) {
#pragma unroll
  for (uint i = 0; i < 8; ++i) to.values[i] = T(0.0f);
}

template <typename T>
inline void put(thread octet<T>& to, uint i, T value) {
  to.values[i] = value;
}

template <typename T>
inline void store_swizzled(thread const octet<T>& v, uint first, threadgroup T* to) {
  *(threadgroup vec<T, 4>*)to =
      vec<T, 4>(v.values[first], v.values[first + 1], v.values[first + 2], v.values[first + 3]);
}

inline void publish_tile() {}

template <uint COUNT, typename T>
inline void copy_tile(thread workspace<T>& space, device const T* from, threadgroup T* to, uint) {
  for (uint at = space.thread_index * 4; at < COUNT; at += 1024) {
    *(threadgroup vec<T, 4>*)(to + at) = *(device const vec<T, 4>*)(from + at);
  }
}

// When it returns, all simdgroups have finished with the previous tile.
template <typename T>
inline void wait_for_buffer(thread workspace<T>&, uint) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

template <typename T>
inline void release_buffer(thread workspace<T>&, uint) {}

// sum += weights * tile over half of the k-slices.
template <uint HALF, uint BM, uint TK, typename T>
inline void multiply_add(thread workspace<T>& space, thread accumulator<BM>& sum,
                         thread const weight_fragment<T, TK>&, threadgroup const T* tile) {
#pragma unroll
  for (uint k_slice = HALF * TK / 8; k_slice < (HALF + 1) * TK / 8; ++k_slice) {
    simdgroup_matrix<T, 8, 8> w[2][2];
#pragma unroll
    for (uint i = 0; i < 2; ++i) {
#pragma unroll
      for (uint k = 0; k < 2; ++k) {
        simdgroup_load(w[i][k], space.weights + k_slice * 256 + i * 128 + k * 64, 8);
      }
    }
#pragma unroll
    for (uint eighth = 0; eighth < BM / 8; ++eighth) {
#pragma unroll
      for (uint k = 0; k < 2; ++k) {
        simdgroup_matrix<T, 8, 8> x;
        simdgroup_load(x, tile + (k_slice * BM / 8 + eighth) * 128 + k * 64, 8, ulong2(0, 0), true);
#pragma unroll
        for (uint i = 0; i < 2; ++i) {
          simdgroup_multiply_accumulate(sum.part[i][eighth], w[i][k], x, sum.part[i][eighth]);
        }
      }
    }
  }
}

inline void wait_for_products() {}
template <uint BM>
inline void wait_for_sums(thread accumulator<BM>&) {}

}  // namespace mlx_dequant
