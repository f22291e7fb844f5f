// Twice the value of an e2m1 float: 0 1 2 3 4 6 8 12, then their negatives. There is no -0.
inline int twice_e2m1(uint code) {
  int mantissa = int(code & 1);
  int exponent = int(code >> 1 & 3);
  int magnitude = exponent == 0 ? mantissa : (2 + mantissa) << (exponent - 1);
  return code & 8 ? -magnitude : magnitude;
}
