// What a launch tells a kernel: `sizes`, uint32 [13]
//
//   0  rows      1  columns       of the matrix as it is stored
//   2  first     3  end           rows of this launch
//   4  first     5  end           columns of this launch, first a multiple of 32
//   6..10                         what the family's source reads
//   11 vectors                    rows of x in a product, ids of a look-up
//   12 splits                     threadgroups that share outputs in a transposed or tiled product

enum { layout_at = 6, vectors_at = 11, splits_at = 12 };

struct region {
  uint first_row, end_row, first_column, end_column;
};

inline region region_of(device const uint* sizes) {
  region result = {sizes[2], sizes[3], sizes[4], sizes[5]};
  return result;
}
