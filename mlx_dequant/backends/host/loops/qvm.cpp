// out[columns] = x[rows] @ W for one row of x. A call does columns 32 * begin to 32 * end - 1.
// Accumulates in float32: the codes of a group's rows are added up before they are scaled.

#include "ahead.h"
#include "vectors.h"

enum {
  RUN = 32,
  BLOCK = 64,  // runs of columns whose sums stay in the first-level cache
  VECTORS = RUN / STORED
};

// partial += codes of some rows of a group, from `column` on, times their inputs.
template <typename F, typename S, typename C>
static inline void add_codes(const S& loader, const C& shared, const uint* group_rows, uint count,
                             uint column, const float* x, float* partial) {
  vector_of<STORED>::type sum[VECTORS];
#pragma GCC unroll 8
  for (uint i = 0; i < VECTORS; ++i) sum[i] = load_floats<STORED>(partial + i * STORED);
  // For the next eight rows. Four runs share their lines where a word has codes of a row; where it
  // has codes of a column, a run has two lines.
  const uint next = group_rows[0] + 8 + column / RUN % 4 * 2;
  ask_for<F>(loader, next, column);
  ask_for<F>(loader, next + 1, column + RUN / 2);
  for (uint r = 0; r < count; ++r) {
    const uint row = group_rows[r];
    float q[RUN];
    group_codes<F, RUN, 1>(loader, shared, row, column, q);
#pragma GCC unroll 8
    for (uint i = 0; i < VECTORS; ++i) sum[i] += load_floats<STORED>(q + i * STORED) * x[row];
  }
#pragma GCC unroll 8
  for (uint i = 0; i < VECTORS; ++i) store_floats(partial + i * STORED, sum[i]);
}

// sum += partial times the scales; partial = 0.
template <typename C>
static inline void flush_group(const C& shared, float* partial, float* sum) {
  float w[RUN];
  apply_scale<RUN>(shared, partial, w);
  for (uint i = 0; i < RUN; ++i) sum[i] += w[i];
  memset(partial, 0, sizeof w);
}

template <typename F, typename S>
static inline void qvm(const S& loader, const float* x, float* __restrict out,
                       const LaunchParams& p, size_t begin, size_t end) {
  const uint rows = p.rows;
  const uint columns = p.columns;
  for (size_t run = begin; run < end; run += BLOCK) {
    const uint first = uint(run) * RUN;
    const uint last = run + BLOCK < end ? first + BLOCK * RUN : uint(end) * RUN;
    const uint width = (last < columns ? last : columns) - first;
    const uint whole = width / RUN;
    float sum[BLOCK * RUN] = {};
    float partial[BLOCK * RUN] = {};
    for (uint group = 0, done = 0; done < rows; ++group) {
      typename S::template group_params<RUN> shared[BLOCK];
#pragma clang loop vectorize(disable)
      for (uint i = 0; i < whole; ++i) {
        load_group_params<F, RUN>(loader, group, first + i * RUN, shared[i]);
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
          add_codes<F>(loader, shared[i], group_rows, count, first + i * RUN, x, partial + i * RUN);
        }
      }
      if (done == before) continue;
#pragma clang loop vectorize(disable)
      for (uint i = 0; i < whole; ++i) flush_group(shared[i], partial + i * RUN, sum + i * RUN);
    }
    for (uint at = whole * RUN; at < width; ++at) {
      for (uint row = 0; row < rows; ++row) {
        float w;
        decode<F, 1>(loader, row, first + at, &w);
        sum[at] += w * x[row];
      }
    }
    memcpy(out + first, sum, width * sizeof(float));
  }
}
