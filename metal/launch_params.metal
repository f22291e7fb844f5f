// The parameters of a launch. mlx_dequant/encoded.py has the same fields in the same order, and
// kernel_source.py compares them. Fields that a kernel or a family does not use are 0.

struct LaunchParams {
  uint rows;  // of the stored matrix
  uint columns;
  uint first_row;  // of the region that this launch covers
  uint end_row;
  uint first_column;  // a multiple of 32
  uint end_column;
  uint blocks_per_row;  // GGUF
  uint group_size;      // AWQ, GPTQ, compressed-tensors; 2^31 for a single group
  uint group_multiplier;
  uint group_shift;
  uint zero_word;  // GPTQ: what is added to stored zero points
  uint zero_field;
  uint has_zeros;  // compressed-tensors
  uint groups_per_row;
  uint M;                 // rows of x, or ids of a look-up
  uint split_k;           // threadgroups that share K
  uint tiles_multiplier;  // fast_div by the threadgroups side by side in a row
  uint tiles_shift;
  uint experts;          // matrices in a stack; rows and columns are those of one
  uint choices;          // consecutive ids that share a row of x
  uint across;           // threadgroups side by side
  uint expert_stride_0;  // from an expert to the next, in elements of each of a stack's arrays
  uint expert_stride_1;
  uint expert_stride_2;
  uint expert_stride_3;
};

// n / divisor for n below 2^31, without a division. fast_divmod.py computes the multiplier and the
// shift.
inline uint fast_div(uint n, uint multiplier, uint shift) {
  return mulhi(2 * n, multiplier) >> shift;
}
