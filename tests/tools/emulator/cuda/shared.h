// A launch's shared memory, whose addresses have 32 bits and count from no thread's pointer.

namespace emulator {

inline std::atomic<uint32_t> shared_bytes;  // every thread writes it, the same number
static const uint32_t first_shared = 1024;

inline char* shared_memory() { return (char*)hooks->scratch(0, shared_bytes, 227 * 1024); }

// The bytes at an address.
inline char* shared_at(uint32_t address, uint32_t bytes, uint32_t alignment) {
  if (address % alignment) hooks->fail("misaligned address in shared memory");
  uint32_t at = address - first_shared;
  if (at > shared_bytes || bytes > shared_bytes - at) {
    hooks->fail("address outside of shared memory");
  }
  return shared_memory() + at;
}

}  // namespace emulator

inline size_t __cvta_generic_to_shared(const void* p) {
  return size_t((const char*)p - emulator::shared_memory()) + emulator::first_shared;
}
