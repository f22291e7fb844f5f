// qmm by mma.sync, from sm_80 on. Lanes load x themselves, and a product completes before the next
// statement.

#include "qmm.h"

namespace mlx_dequant {

// The offset of an input of a row of x in a tile of x: BM rows x 4 * TK inputs. `swizzle_width`
// inputs from there are contiguous. A tile consists of chunks of 16 inputs of each lane, 128 bytes
// for a row of x. Odd rows have neighbouring octets swapped, so that eight lanes that load never
// meet in a bank.
enum { swizzle_width = 8 };
template <uint BM, uint TK>
inline uint swizzled_offset(uint row, uint input) {
  uint chunk = input % TK / 16;
  uint octet = input / TK * 2 + input % 16 / 8;
  return (chunk * BM + row) * 64 + (octet ^ row % 2) * 8;
}

template <typename T>
inline void store_swizzled(const float* v, T* to) {
  store<8>(to, v);
}

template <typename T>
inline void store_swizzled(const octet<T>& v, uint, T* to) {
  *(uint4*)to = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
}

inline void publish_tile() {}

// Shared memory in which the lanes of a warp exchange weights.
template <typename T>
struct workspace {
  T* exchange;
  uint lane;
};

template <uint, typename T>
inline void start(workspace<T>& space, T* memory, uint thread_index) {
  space.exchange = memory + thread_index / 32 * 512;
  space.lane = thread_index % 32;
}

template <uint COUNT, typename T>
inline void copy_tile(workspace<T>&, const T* from, T* to, uint) {
#pragma unroll
  for (uint i = 0; i < COUNT / 2048; ++i) {
    uint at = (threadIdx.x + i * 256) * 8;
    uint address = uint(__cvta_generic_to_shared(to + at));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(address), "l"(from + at));
  }
}

// When it returns, all warps have finished with the previous tile.
template <typename T>
inline void wait_for_buffer(workspace<T>&, uint) {
  asm volatile("cp.async.wait_all;" : : : "memory");
  __syncthreads();
}

template <typename T>
inline void release_buffer(workspace<T>&, uint) {}

#define MULTIPLY_ADD(type, name)                                                         \
  inline void multiply_add_slice(float* sum, const uint* w, uint low, uint high, type) { \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                           \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                         \
        : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(low), "r"(high));              \
  }
MULTIPLY_ADD(float16_t, "f16")
MULTIPLY_ADD(bfloat16_t, "bf16")
#undef MULTIPLY_ADD

// sum += weights * tile over half of the k-slices. 32 rows of x are interleaved, so that no product
// waits for the one before it.
template <uint HALF, uint BM, uint TK, typename T>
inline void multiply_add(workspace<T>&, accumulator<BM>& sum, const weight_fragment<T, TK>& weights,
                         const T* tile) {
  uint lane = threadIdx.x % 32;
#pragma unroll
  for (uint k_slice = HALF * TK / 8; k_slice < (HALF + 1) * TK / 8; k_slice += 2) {
    const uint* w = weights.pairs + 4 * k_slice;
#pragma unroll
    for (uint eighth = 0; eighth < BM / 8; eighth += 4) {
      uint4 x[4];
#pragma unroll
      for (uint i = 0; i < 4; ++i) {
        uint row = (eighth + i) * 8 + lane / 4;
        x[i] = *(const uint4*)(tile + swizzled_offset<BM, TK>(row, lane % 4 * TK + k_slice * 4));
      }
#pragma unroll
      for (uint i = 0; i < 4; ++i) {
        multiply_add_slice(sum.part + (eighth + i) * 4, w, x[i].x, x[i].y, T());
      }
#pragma unroll
      for (uint i = 0; i < 4; ++i) {
        multiply_add_slice(sum.part + (eighth + i) * 4, w + 4, x[i].z, x[i].w, T());
      }
    }
  }
}

inline void wait_for_products() {}
template <uint BM>
inline void wait_for_sums(accumulator<BM>&) {}

}  // namespace mlx_dequant
