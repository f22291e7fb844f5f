// out[n] = the sum of parts [splits, n], each thread one column; sizes: n, splits

template <typename T>
inline void split_k_reduce(device const float* parts, device T* out, device const uint* sizes,
                           uint threadgroup_index, uint thread_index) {
  uint n = sizes[0];
  uint splits = sizes[1];
  uint at = threadgroup_index * 256 + thread_index;
  if (at >= n) return;
  float sum = 0.0f;
  for (uint split = 0; split < splits; ++split) sum += parts[size_t(split) * n + at];
  out[at] = T(sum);
}
