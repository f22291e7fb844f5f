// out[i, column] = x[i / choices, perm[ids[i], column]] for M pairs of a row of x and an expert
//
// Each expert has an order of inputs of its own. A threadgroup takes permute_chunk columns of a
// pair. Where an id is out of range the order is any.

#include "experts.metal"
#include "permute_columns.metal"

template <typename T, typename I>
inline void permute_for_experts(device const T* x, device const int* perm, device const I* ids,
                                device T* out, thread const LaunchParams& p, uint threadgroup_index,
                                uint thread_index) {
  uint pair = threadgroup_index / permute_chunks(p.columns);
  uint expert = min(expert_number(ids[pair], p.experts), p.experts - 1);
  gather_chunk(x + size_t(pair / p.choices) * p.columns, perm + size_t(expert) * p.columns,
               out + size_t(pair) * p.columns, p.columns, threadgroup_index, thread_index);
}
