// out[rows] = W @ x[columns] for one row of x in whole numbers of 8 bits. A call does rows begin to
// end - 1 of W. Sums of four products are exact; they are scaled and accumulated in float32.

#include "ahead.h"
#include "int8.h"

enum { RUN = 32 };

// sum += 32 weights of `row` from `column` on, times x, but for their mins, which `less` gets.
template <typename F, typename S>
static inline void add_run(const S& loader, uint row, uint column, const Rounded& x, floats& sum,
                           float& less) {
  const uint block = F::scale_block < RUN ? F::scale_block : uint(RUN);
  static_assert(F::weights % RUN == 0 && block >= 16, "halves of a run share a scale");
  const ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  int8_t q[RUN];
  floats scale = {};
  float mins = 0;
  ask_for<F>(loader, row + AHEAD, column);
#pragma GCC unroll 8
  for (uint i = 0; i < RUN; i += block) {
    // With |, unlike with +, g++ sees that all runs of a block share its head.
    const scaling by = scaled_by(row_codes<F, block>(loader, row, column | i, q + i));
    const floats same = by.scale - floats{};
    scale = i == 0 ? same : lanes < int(i / 4) ? scale : same;  // from lane i / 4 on
    if (has_min<F>::value) {
      mins += by.min * (block < RUN ? x.total[i / 16] : x.total[0] + x.total[1]);
    }
  }
  sum += dot<block>(q, x.q) * scale * x.scale;
  if (has_min<F>::value) less += mins * x.scale;
}

template <typename F, typename S>
static inline void qmv_int8(const S& loader, const Rounded* x, float* __restrict out,
                            const LaunchParams& p, size_t begin, size_t end) {
  const uint runs = 8;  // as many as fill the largest blocks, so shared scales decode once
  const uint all = p.columns / RUN;
  for (size_t row = begin; row < end; ++row) {
    floats sum = {};
    float less = 0;
    uint run = 0;
    for (uint i = 0; i < all / runs; ++i) {
#pragma GCC unroll 8
      for (uint j = 0; j < runs; ++j, ++run) {
        add_run<F>(loader, uint(row), i * runs * RUN | j * RUN, x[run], sum, less);
      }
    }
    for (; run < all; ++run) add_run<F>(loader, uint(row), run * RUN, x[run], sum, less);
    out[row] = total(sum) - less;
  }
}
