// qmm by wgmma, on Hopper. x arrives by bulk copies, and products run while the next weights are
// decoded.

#include "qmm.h"

namespace mlx_dequant {

// The offset of an input of a row of x in a tile of x: BM rows x 4 * TK inputs. `swizzle_width`
// inputs from there are contiguous. A tile consists of groups of four k-slices, 128 bytes for a row
// of x. The 16-byte words of a row are permuted as the descriptor below says.
enum { swizzle_width = 2 };
template <uint BM, uint TK>
inline uint swizzled_offset(uint row, uint input) {
  uint k_slice = input % TK / 4;
  uint word = k_slice % 4 * 2 + input % 4 / 2;
  return (k_slice / 4 * BM + row) * 64 + (word ^ row % 8) * 8 + input / TK * 2;
}

template <typename T>
inline void store_swizzled(const float* v, T* to) {
  *(uint*)to = rounded_pair(v, T());
}

template <typename T>
inline void store_swizzled(const octet<T>& v, uint first, T* to) {
  *(uint*)to = v.words[first / 2];
}

// What this thread stored to tiles is there for wgmma, which reads memory by another way.
inline void publish_tile() { asm volatile("fence.proxy.async.shared::cta;" : : : "memory"); }

// Shared memory in which the lanes of a warp exchange weights, and four barriers. Barrier i, 0 or
// 1, completes when the copy into tile i has arrived; barrier `released + i` completes when all
// warps have finished with tile i. Bit i of `parities` is the parity of barrier i's phase to wait
// for next. Tiles start as released.
template <typename T>
struct workspace {
  T* exchange;
  uint lane, barriers, parities;
};

enum { released = 2, barrier_bytes = 8 };

template <uint, typename T>
inline void start(workspace<T>& space, T* memory, uint thread_index) {
  space.exchange = memory + 64 + thread_index / 32 * 512;
  space.lane = thread_index % 32;
  space.barriers = uint(__cvta_generic_to_shared(memory));
  space.parities = 3 << released;
  if (thread_index == 0) {
    for (uint i = 0; i < 2; ++i) {
      uint barrier = space.barriers + i * barrier_bytes;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(barrier) : "memory");
      barrier += released * barrier_bytes;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 8;" : : "r"(barrier) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
  }
  __syncthreads();
}

// Waits for the copy into buffer i or, with i = released + k, until buffer k is free.
template <typename T>
inline void wait_for_buffer(workspace<T>& space, uint i) {
  uint done = 0;
  while (!done) {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(space.barriers + i * barrier_bytes), "r"(space.parities >> i & 1)
        : "memory");
  }
  space.parities ^= 1 << i;
}

template <uint COUNT, typename T>
inline void copy_tile(workspace<T>& space, const T* from, T* to, uint buffer) {
  if (threadIdx.x == 0) {
    wait_for_buffer(space, released + buffer);
    uint bytes = uint(COUNT * sizeof(T));
    uint address = uint(__cvta_generic_to_shared(to));
    uint barrier = space.barriers + buffer * barrier_bytes;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(barrier), "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :
        : "r"(address), "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
  }
  __syncwarp();
}

// Warps do not wait for each other here. Only the next copy into this buffer waits for them all.
template <typename T>
inline void release_buffer(workspace<T>& space, uint buffer) {
  if (space.lane == 0) {
    uint barrier = space.barriers + (released + buffer) * barrier_bytes;
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(barrier) : "memory");
  }
}

#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 \
  NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MULTIPLY_ADD(type, name, rows, sums, names, count, operands)                             \
  inline void multiply_add_slice(float (&d)[count], const uint* w, unsigned long long x, type) { \
    asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" rows   \
                 "k16.f32." name "." name " {" names "}, " operands ", p, 1, 1, 0; }"            \
                 : sums(0)                                                                       \
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x));                          \
  }
#define MULTIPLY_ADDS(type, name)                                                    \
  MULTIPLY_ADD(type, name, "32", SUMS_16, NAMES_16, 16, "{%16, %17, %18, %19}, %20") \
  MULTIPLY_ADD(type, name, "64", SUMS_32, NAMES_32, 32, "{%32, %33, %34, %35}, %36")
MULTIPLY_ADDS(float16_t, "f16")
MULTIPLY_ADDS(bfloat16_t, "bf16")
#undef MULTIPLY_ADDS
#undef MULTIPLY_ADD
#undef SUMS_4
#undef SUMS_16
#undef SUMS_32
#undef NAMES_16
#undef NAMES_32

// Starts sum += weights * tile over half of the k-slices. The weights' registers must not change
// until the products complete.
template <uint HALF, uint BM, uint TK, typename T>
inline void multiply_add(workspace<T>&, accumulator<BM>& sum, const weight_fragment<T, TK>& weights,
                         const T* tile) {
  const uint rows = BM < 64 ? BM : 64;  // of x, for an instruction
  // wgmma's descriptor of x, in units of 16 bytes: the address, the 1024 bytes from eight rows to
  // the next eight, and the swizzle of 16-byte words within 128 bytes.
  unsigned long long x = uint(__cvta_generic_to_shared(tile)) / 16;
  x |= 1ull << 16 | (1024ull / 16) << 32 | 1ull << 62;
  if (HALF == 0) asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#pragma unroll
  for (uint k_slice = HALF * TK / 8; k_slice < (HALF + 1) * TK / 8; ++k_slice) {
#pragma unroll
    for (uint row = 0; row < BM; row += rows) {
      multiply_add_slice(*(float (*)[rows / 2])(sum.part + row / 2), weights.pairs + 4 * k_slice,
                         x + k_slice / 4 * (BM * 8) + k_slice % 4 * 2 + row * 8, T());
    }
  }
  if (HALF == 1) asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

inline void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" : : : "memory"); }

// Tells the compiler that the sums change here, where the products complete, and not where they
// started.
template <uint BM>
inline void wait_for_sums(accumulator<BM>& sum) {
  wait_for_products();
#pragma unroll
  for (uint i = 0; i < BM / 2; ++i) asm volatile("" : "+f"(sum.part[i]) : : "memory");
}

}  // namespace mlx_dequant
