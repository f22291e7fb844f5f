// Tiles by wgmma, which Hopper has: x comes by bulk copies, and products run on while weights are
// unpacked.

namespace mlx_dequant {

// Where an input of a vector lies in a tile of x, and `together` next to it. A tile is parts of
// four k_slices, a row of 128 bytes for a vector. Words of 16 bytes are swapped within a row as the
// descriptor below says.
enum { together = 2 };
template <uint VECTORS, uint RUN>
__device__ inline uint swizzled_offset(uint vector, uint input) {
  uint k_slice = input % RUN / 4;
  uint word = k_slice % 4 * 2 + input % 4 / 2;
  return (k_slice / 4 * VECTORS + vector) * 64 + (word ^ vector % 8) * 8 + input / RUN * 2;
}

template <typename T>
__device__ inline void store_swizzled(const float* v, T* to) {
  *(uint*)to = rounded_pair(v, T());
}

// Room for lanes of a warp to exchange weights or, in the same place, for weights of steps to come.
// Each of two tiles has a barrier that its copy completes and, two further on, one that the warps
// complete which are done with it; each of two stages of weights has one that its copies complete.
// Of all six, the parities of the phases to wait for next: tiles begin as if just released.
template <typename T>
struct workspace {
  T* exchange;
  uint8_t* stages;
  uint lane, barriers, parities;
  uint rank, peers;  // of a cluster's threadgroups, one or two
};

enum { released = 2, staged = 4, barrier_bytes = 8, stage_bytes = 41 * 1024 };

// Where weights of steps to come wait beside 256 vectors: strips lie there as in the weight, modulo
// 16, and an odd number of 16 bytes apart, or 15 more. Lanes read them by runs of strips, which
// begin 16 bytes further each, of 16 runs at most: so they meet in fewer banks. Q8_0 needs the
// most, 41,072 bytes; programs.py has room for two.
template <uint VECTORS, typename W>
struct stage {
  enum {
    words = (W::bytes + 31 - W::align) / 16,
    pitch = (words | 1) * 16,
    fits = VECTORS == 256 && W::count * (pitch + 15) + 15 * 16 <= stage_bytes
  };
};

__device__ inline void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;" : : : "memory");
  asm volatile("barrier.cluster.wait.aligned;" : : : "memory");
}

template <typename T>
__device__ inline void start(workspace<T>& space, T* memory, uint thread_index) {
  space.exchange = memory + 64 + thread_index / 32 * 512;
  space.stages = (uint8_t*)(memory + 64);
  space.lane = thread_index % 32;
  space.barriers = uint(__cvta_generic_to_shared(memory));
  space.parities = 3 << released;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(space.rank));
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(space.peers));
  if (thread_index == 0) {
    for (uint i = 0; i < 2; ++i) {
      uint barrier = space.barriers + i * barrier_bytes;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(barrier) : "memory");
      barrier += released * barrier_bytes;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                   :
                   : "r"(barrier), "r"(8 * space.peers)
                   : "memory");
      barrier += (staged - released) * barrier_bytes;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 256;" : : "r"(barrier) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
    asm volatile("fence.proxy.async;" : : : "memory");
  }
  wait_for_cluster();
}

// No threadgroup ends while another may still release a tile of its.
template <typename T>
__device__ inline void finish(workspace<T>&) {
  wait_for_cluster();
}

template <typename T>
__device__ inline void wait_for_barrier(workspace<T>& space, uint i) {
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

// Each threadgroup of a cluster copies its share of a tile to all of them.
template <uint COUNT, typename T>
__device__ inline void copy_tile(workspace<T>& space, const T* from, T* to, uint buffer) {
  if (threadIdx.x == 0) {
    wait_for_barrier(space, released + buffer);
    uint share = uint(COUNT * sizeof(T)) >> (space.peers - 1);
    uint address = uint(__cvta_generic_to_shared(to)) + space.rank * share;
    uint barrier = space.barriers + buffer * barrier_bytes;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(barrier), "r"(uint(COUNT * sizeof(T)))
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;"
        :
        : "r"(address), "l"((const uint8_t*)from + space.rank * share), "r"(share), "r"(barrier),
          "h"(ushort((1 << space.peers) - 1))
        : "memory");
  }
  __syncwarp();
}

template <typename T>
__device__ inline void wait_for_tile(workspace<T>& space, uint buffer) {
  wait_for_barrier(space, buffer);
}

// Warps need not wait for each other, but for the next copy into a buffer, which may be another
// threadgroup's too.
template <typename T>
__device__ inline void release_tile(workspace<T>& space, uint buffer) {
  uint barrier = space.barriers + (released + buffer) * barrier_bytes;
  if (space.lane == 0) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(barrier) : "memory");
  }
  if (space.lane == 1 && space.peers == 2) {
    asm volatile(
        "{ .reg .u32 theirs; mapa.shared::cluster.u32 theirs, %0, %1; "
        "mbarrier.arrive.shared::cluster.b64 _, [theirs]; }"
        :
        : "r"(barrier), "r"(space.rank ^ 1)
        : "memory");
  }
}

// Strips of stage `at`, as those of a run are to be read.
template <typename T, typename W, typename P>
__device__ inline P strips_at(workspace<T>& space, W, P from, uint at, uint run) {
  uint8_t* first = space.stages + at % 2 * stage_bytes + run * 16 + uint(size_t(from.first) % 16);
  return {first, stage<256, W>::pitch + uint(from.pitch % 16)};
}

// Begins to copy strips, so many to a run. The window is given by its type: files that other
// platforms share can only name this with arguments.
template <typename T, typename W, typename P>
__device__ inline void copy_strips(workspace<T>& space, W window, P from, uint at, uint run) {
  const uint words = stage<256, W>::words;
  const uint lanes = words <= 8 ? 8 : words <= 16 ? 16 : 32;
  const uint together = 256 / lanes;
  static_assert(words <= 32 && together * W::align % 16 == 0, "one offset for a thread's strips");
  uint strip = threadIdx.x / lanes;
  uint skipped = threadIdx.x % lanes * 16;
  const uint8_t* first = from.first + strip * from.pitch;
  uint offset = uint(size_t(first) % 16);
  uint needed = skipped < offset + W::bytes;
  first += int(skipped) - int(offset);
  P to = strips_at(space, window, from, at, 0);
  uint address = uint(__cvta_generic_to_shared(to.first + strip * to.pitch)) / 16 * 16 + skipped;
#pragma unroll
  for (uint i = 0; i < W::count / together; ++i) {
    uint place = address + i * together * uint(to.pitch) + (strip + i * together) / run * 16;
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %2, 0; "
        "@p cp.async.cg.shared.global.L2::256B [%0], [%1], 16; }"
        :
        : "r"(place), "l"(first + i * together * from.pitch), "r"(needed)
        : "memory");
  }
  uint barrier = space.barriers + (staged + at % 2) * barrier_bytes;
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" : : "r"(barrier) : "memory");
}

template <typename T>
__device__ inline void wait_for_strips(workspace<T>& space, uint at) {
  wait_for_barrier(space, staged + at % 2);
}

#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)
#define NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 \
  NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                            \
  NAMES_32                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_128                                                                              \
  NAMES_64                                                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, "    \
  "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, " \
  "%99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, "  \
  "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define MULTIPLY_ADD(type, name, vectors, count, factors)                                          \
  template <uint RUN>                                                                              \
  __device__ inline void multiply_add_slice(float (&d)[count], const fragment<type, RUN>& weights, \
                                            uint k_slice, unsigned long long x) {                  \
    asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" vectors  \
                 "k16.f32." name "." name " {" NAMES_##count "}, " factors ", p, 1, 1, 0; }"       \
                 : SUMS_##count(0)                                                                 \
                 : "r"(weights.pairs[0][2 * k_slice]), "r"(weights.pairs[1][2 * k_slice]),         \
                   "r"(weights.pairs[0][2 * k_slice + 1]), "r"(weights.pairs[1][2 * k_slice + 1]), \
                   "l"(x));                                                                        \
  }
#define MULTIPLY_ADDS(type, name)                                  \
  MULTIPLY_ADD(type, name, "32", 16, "{%16, %17, %18, %19}, %20")  \
  MULTIPLY_ADD(type, name, "64", 32, "{%32, %33, %34, %35}, %36")  \
  MULTIPLY_ADD(type, name, "128", 64, "{%64, %65, %66, %67}, %68") \
  MULTIPLY_ADD(type, name, "256", 128, "{%128, %129, %130, %131}, %132")
MULTIPLY_ADDS(float16_t, "f16")
MULTIPLY_ADDS(bfloat16_t, "bf16")
#undef MULTIPLY_ADDS
#undef MULTIPLY_ADD
#undef SUMS_4
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
#undef SUMS_128
#undef NAMES_16
#undef NAMES_32
#undef NAMES_64
#undef NAMES_128

// Starts to add weights times a tile to the sums, half of the k_slices. The weights have to stay
// until it is done.
template <uint HALF, uint VECTORS, uint RUN, typename T>
__device__ inline void multiply_add(workspace<T>&, accumulator<VECTORS>& sum,
                                    const fragment<T, RUN>& weights, const T* tile) {
  // A descriptor, in units of 16 bytes: where x is; eight rows are 1024 bytes; words of 16 bytes
  // are swapped among 128.
  unsigned long long x = uint(__cvta_generic_to_shared(tile)) / 16;
  x |= 1ull << 16 | (1024ull / 16) << 32 | 1ull << 62;
  if (HALF == 0) asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#pragma unroll
  for (uint k_slice = HALF * RUN / 8; k_slice < (HALF + 1) * RUN / 8; ++k_slice) {
    multiply_add_slice(sum.part, weights, k_slice,
                       x + k_slice / 4 * (VECTORS * 8) + k_slice % 4 * 2);
  }
  if (HALF == 1) asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : : : "memory");
}

// The sums are what they are from here on, and not where the products were begun.
template <uint VECTORS>
__device__ inline void wait_for_sums(accumulator<VECTORS>& sum) {
  wait_for_products();
#pragma unroll
  for (uint i = 0; i < VECTORS / 2; ++i) asm volatile("" : "+f"(sum.part[i]) : : "memory");
}

}  // namespace mlx_dequant
