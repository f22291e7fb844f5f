// How codes lie in memory, for kernels that copy some of them
//
// A loader's window<F, ROWS, COLUMNS> says how many strips of bytes hold so many weights, how long
// they are and what divides their addresses; strips_of, where those are that begin with a row and
// a column; placed gives a loader that reads such strips elsewhere. Its first_row and first_column
// are those then, else 0.
struct strips {
  device const uint8_t* first;
  size_t pitch;  // from one to the next, in bytes
};
