// out[M, columns] = x[M, rows] @ W. A call does columns 32 * begin to 32 * end - 1. Accumulates in
// float32: the codes of a group's rows are added up before they are scaled.

#include "lanes.h"

// partial[m] += codes of some rows of a group, from `column` on, times the same inputs of row m of
// x.
template <uint M, uint WIDTH, typename F, typename S, typename C>
static inline void add_codes(const S& loader, const C& shared, const uint* group_rows, uint count,
                             uint column, const float* x, size_t rows, float* partial) {
  lanes total[M][2];
#pragma GCC unroll 8
  for (uint m = 0; m < M; ++m) {
    total[m][0] = load_lanes(partial + m * WIDTH);
    total[m][1] = load_lanes(partial + m * WIDTH + 16);
  }
  for (uint r = 0; r < count; ++r) {
    const uint row = group_rows[r];
    float q[32];
    codes<F, 32, 1>(loader, shared, row, column, q);
    const lanes first = load_lanes(q);
    const lanes second = load_lanes(q + 16);
#pragma GCC unroll 8
    for (uint m = 0; m < M; ++m) {
      const float factor = x[m * rows + row];
      total[m][0] += first * factor;
      total[m][1] += second * factor;
    }
  }
#pragma GCC unroll 8
  for (uint m = 0; m < M; ++m) {
    store_lanes(partial + m * WIDTH, total[m][0]);
    store_lanes(partial + m * WIDTH + 16, total[m][1]);
  }
}

// sum[m] += partial[m] times the scales; partial[m] = 0.
template <uint M, uint WIDTH, typename C>
static inline void flush_group(const C& shared, float* partial, float* sum) {
#pragma GCC unroll 8
  for (uint m = 0; m < M; ++m) {
    float w[32];
    apply_scale<32>(shared, partial + m * WIDTH, w);
    for (uint i = 0; i < 32; ++i) sum[m * WIDTH + i] += w[i];
    memset(partial + m * WIDTH, 0, sizeof w);
  }
}

template <uint M, typename F, typename S>
static inline void qvm_of(const S& loader, const float* x, float* __restrict out,
                          const LaunchParams& p, size_t begin, size_t end) {
  const uint N = 32;
  const uint block = M > 1 ? 16 : 64;  // runs of 32 columns whose sums stay in the L1 cache
  const uint width_limit = block * N;
  const uint rows = p.rows;
  const uint columns = p.columns;
  for (size_t run = begin; run < end; run += block) {
    const uint first = uint(run) * N;
    const uint last = run + block < end ? first + width_limit : uint(end) * N;
    const uint width = (last < columns ? last : columns) - first;
    const uint whole = width / N;
    float sum[M * width_limit] = {};
    float partial[M * width_limit] = {};
    for (uint group = 0, done = 0; done < rows; ++group) {
      typename S::template group_params<N> shared[block];
#pragma clang loop vectorize(disable)
      for (uint i = 0; i < whole; ++i) {
        load_group_params<F, N>(loader, group, first + i * N, shared[i]);
      }
      // The group's rows, eight at a time: the next rows, or with act-order any rows.
      const bool contiguous = share_group<F, 1>(loader);
      const uint before = done;
      for (uint row = contiguous ? done : 0; row < rows;) {
        uint group_rows[8];
        uint count = 0;
        for (; row < rows && count < 8; ++row) {
          if (group_at<F>(loader, row) == group) {
            group_rows[count++] = row;
          } else if (contiguous) {
            break;
          }
        }
        if (count == 0) break;
        done += count;
        // Otherwise clang vectorizes over the runs, with gathers, ten times slower.
#pragma clang loop vectorize(disable)
        for (uint i = 0; i < whole; ++i) {
          add_codes<M, width_limit, F>(loader, shared[i], group_rows, count, first + i * N, x, rows,
                                       partial + i * N);
        }
      }
      if (done == before) continue;
#pragma clang loop vectorize(disable)
      for (uint i = 0; i < whole; ++i) {
        flush_group<M, width_limit>(shared[i], partial + i * N, sum + i * N);
      }
    }
    for (uint at = whole * N; at < width; ++at) {
      for (uint row = 0; row < rows; ++row) {
        float w;
        decode<F, 1>(loader, row, first + at, &w);
        for (uint m = 0; m < M; ++m) sum[m * width_limit + at] += w * x[size_t(m) * rows + row];
      }
    }
    for (uint m = 0; m < M; ++m) {
      memcpy(out + size_t(m) * columns + first, sum + m * width_limit, width * sizeof(float));
    }
  }
}

// x has 1, 4 or 8 rows; the caller pads x with zeros.
template <typename F, typename S>
static inline void qvm(const S& loader, const float* x, float* out, const LaunchParams& p,
                       size_t begin, size_t end) {
  switch (p.M) {
    case 1:
      return qvm_of<1, F>(loader, x, out, p, begin, end);
    case 4:
      return qvm_of<4, F>(loader, x, out, p, begin, end);
    case 8:
      return qvm_of<8, F>(loader, x, out, p, begin, end);
  }
}
