// out[M, columns] = the sum of parts [split_k, M, columns]; a thread makes one result

template <typename T>
inline void split_k_reduce(device const float* parts, device T* out, thread const LaunchParams& p,
                           uint threadgroup_index, uint thread_index) {
  uint n = p.M * p.columns;
  uint at = threadgroup_index * 256 + thread_index;
  if (at >= n) return;
  float sum = 0.0f;
  for (uint split = 0; split < p.split_k; ++split) sum += parts[size_t(split) * n + at];
  out[at] = T(sum);
}
