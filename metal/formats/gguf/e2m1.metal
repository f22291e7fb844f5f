// Twice the values of an e2m1 float, which makes them integers. -0 becomes 0.
TABLE int8_t twice_e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
