// The processor's modes that take subnormal operands and results for zero.

#pragma once

#include <stdint.h>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace emulator {

class FlushSubnormals {
 public:
  explicit FlushSubnormals(bool wanted) : before_(get()) {
    if (wanted) set(before_ | kFlush);
  }
  ~FlushSubnormals() { set(before_); }

 private:
#ifdef __SSE2__
  static const uint64_t kFlush = 0x8040;  // flush-to-zero and denormals-are-zero
  static uint64_t get() { return _mm_getcsr(); }
  static void set(uint64_t mode) { _mm_setcsr(unsigned(mode)); }
#elif defined(__aarch64__)
  static const uint64_t kFlush = 1 << 24;
  static uint64_t get() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
#error "no flushing mode known for this processor"
#endif
  uint64_t before_;
};

}  // namespace emulator
