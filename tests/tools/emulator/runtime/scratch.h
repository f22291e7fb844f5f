// Threadgroup memory, all bits 1 at first.

#pragma once

#include <stdlib.h>

#include <new>

namespace emulator {

class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes) {
    void* memory;
    if (posix_memalign(&memory, 1024, kMargin + bytes + kMargin)) throw std::bad_alloc();
    memory_ = (volatile unsigned char*)memory;
    fill(0, kMargin, kFence);
    fill(kMargin, kMargin + bytes, 0xff);
    fill(kMargin + bytes, kMargin + bytes + kMargin, kFence);
  }
  ~Scratch() { free((void*)memory_); }
  Scratch(const Scratch&) = delete;

  void* data() const { return (void*)(memory_ + kMargin); }
  size_t bytes() const { return bytes_; }

  // Whether nothing was written just outside.
  bool intact() const {
    for (size_t i = 0; i < kMargin; ++i) {
      if (memory_[i] != kFence || memory_[kMargin + bytes_ + i] != kFence) return false;
    }
    return true;
  }

 private:
#ifdef EMULATOR_ADDRESS
  static constexpr size_t kMargin = 0;  // AddressSanitizer has its own
#else
  static constexpr size_t kMargin = 1024;
#endif
  static constexpr unsigned char kFence = 0xa5;

  // By hand: sanitizers watch memset.
  void fill(size_t begin, size_t end, unsigned char octet) {
    for (size_t i = begin; i < end; ++i) memory_[i] = octet;
  }

  size_t bytes_;
  volatile unsigned char* memory_;
};

}  // namespace emulator
