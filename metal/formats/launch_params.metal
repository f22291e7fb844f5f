// What a launch tells a kernel: `sizes`, uint32 [13]
//
//   0  rows      1  columns       of the matrix as it is stored
//   2  first     3  end           rows of this launch
//   4  first     5  end           columns of this launch, first a multiple of 32
//   6..10                         what the family's loader reads
//   11, 12                        what the kernel reads: vectors (rows of x, ids of a look-up) and
//                                 splits (threadgroups that share inputs); or, to unpack, what
//                                 divides by the threadgroups that a row takes

enum { layout_at = 6, vectors_at = 11, splits_at = 12 };

// n / divisor for n below 2^31: by numbers that came with the launch (division.py), so without the
// branches and the twenty instructions of a division.
inline uint fast_div(uint n, uint multiplier, uint shift) {
  return mulhi(2 * n, multiplier) >> shift;
}

struct region {
  uint first_row, end_row, first_column, end_column;
};

inline region region_of(device const uint* sizes) {
  region result = {sizes[2], sizes[3], sizes[4], sizes[5]};
  return result;
}
