// out[M, columns] = x @ W for each pair of a row of x and an expert, with a stored W [rows, columns]
// an expert, accumulated in float32
//
// ids holds the experts of M pairs, `choices` for each row of x. An id out of range gives NaN.

#include "experts.metal"
#include "qvm.metal"

template <typename F, typename T, uint LANES, uint VALUES, uint CHUNK, typename LOOP, typename X,
          typename I, typename S>
inline void gather_qvm(thread const S& loader, device const X* x, device const I* ids,
                       device T* out, thread const LaunchParams& p, threadgroup float* scratch,
                       uint threadgroup_index, uint thread_index) {
  uint pair = pair_of(threadgroup_index, p);
  uint part = part_of(threadgroup_index, p);
  uint row = pair / p.choices;  // of x
  if (expert_of(ids, threadgroup_index, p) == p.experts) {
    const uint across = LANES * VALUES;
    store_nan(out + pair * p.columns, part * across, min((part + 1) * across, p.columns),
              thread_index);
    return;
  }
  qvm_pass<F, T, 1, LANES, VALUES, CHUNK, LOOP>(loader, x, out, p, scratch, row, pair, part,
                                                thread_index);
}
