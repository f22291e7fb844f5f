"""What doctor, verify, the benchmarks and the tests share."""
