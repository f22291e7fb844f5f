// What products of many rows with a stack share: tiles of up to BM pairs with one expert
//
// A pair is a row of x and an expert. `ids` has the experts of p.M pairs, sorted. How many pairs an
// expert has is known only here, so a grid has more tiles than there may be; those left over have
// no pairs. Expert e's tiles begin with number s / BM + e, where s is its first pair: no expert's
// tiles can reach the next one's.

struct expert_tile {
  uint expert;       // p.experts where the id is out of range
  uint first, rows;  // of the sorted pairs
  uint part;         // which threadgroup it is of those side by side
};

// A number that rises with the id; 0 and 2 * p.experts + 1 are out of range.
inline uint key_of(int id, thread const LaunchParams& p) {
  uint below = 0x80000000u - p.experts - 1;
  return min(max(uint(id) + 0x80000000u, below) - below, 2 * p.experts + 1);
}
inline uint key_of(uint id, thread const LaunchParams& p) {
  return min(id, p.experts) + p.experts + 1;
}

// How many pairs have position / BM + key <= limit; with a BM of 0, key <= limit. All lanes of a
// simdgroup look at once.
template <uint BM, typename I>
inline uint count_up_to(device const I* ids, uint limit, uint lane, thread const LaunchParams& p) {
  uint first = 0;
  for (uint length = p.M; length > 0;) {
    uint stride = (length + 31) / 32;
    uint at = lane * stride;
    bool counts = at < length;
    if (counts) {
      uint position = first + at;
      counts = (BM ? position / max(BM, 1u) : 0) + key_of(ids[position], p) <= limit;
    }
    uint found = uint(simd_sum(counts ? 1.0f : 0.0f));
    if (found == 0) break;
    first += (found - 1) * stride + 1;
    length = min(stride, length - (found - 1) * stride) - 1;
  }
  return first;
}

// The first pair with the key of pair `last`. Most experts have few pairs: it is near.
template <typename I>
inline uint first_of_key(device const I* ids, uint last, uint key, uint lane,
                         thread const LaunchParams& p) {
  float counts = 0.0f;
#pragma unroll
  for (uint k = 0; k < 2; ++k) {
    uint back = k * 32 + lane;
    counts += back <= last && key_of(ids[last - min(back, last)], p) == key ? 1.0f : 0.0f;
  }
  uint same = uint(simd_sum(counts));
  if (key == 0) return 0;
  return same < 64 ? last + 1 - same : count_up_to<0>(ids, key - 1, lane, p);
}

template <uint BM, typename I>
inline expert_tile find_tile(device const I* ids, uint threadgroup_index, uint thread_index,
                             thread const LaunchParams& p) {
  uint lane = thread_index % 32;
  uint number = threadgroup_index / p.across;
  expert_tile tile = {0, 0, 0, threadgroup_index - number * p.across};
  uint lowest = key_of(ids[0], p);
  if (number > (p.M - 1) / BM + key_of(ids[p.M - 1], p) - lowest) return tile;
  number += lowest;
  uint last = count_up_to<BM>(ids, number, lane, p) - 1;
  uint key = key_of(ids[last], p);
  uint begin = first_of_key(ids, last, key, lane, p);
  tile.first = begin + (number - key - begin / BM) * BM;
  tile.expert = key == 0 || key > 2 * p.experts ? p.experts : (key - 1) % p.experts;
#pragma unroll
  for (uint i = 0; i < BM; i += 32) {
    uint at = tile.first + i + lane;
    bool same = at < p.M && key_of(ids[min(at, p.M - 1)], p) == key;
    tile.rows += uint(simd_sum(same ? 1.0f : 0.0f));
  }
  return tile;
}

// The expert as a factor of the strides, 0 where the id is out of range.
inline size_t stack_index(thread const expert_tile& tile, thread const LaunchParams& p) {
  return tile.expert < p.experts ? tile.expert : 0;
}
