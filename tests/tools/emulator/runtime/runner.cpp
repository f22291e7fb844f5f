// A process of its own for a sanitizer: loads a program, maps its buffers between guard pages
// and runs the grid. Under AddressSanitizer twice: the buffers begin at a guard page, then they end
// at one.
//
//   runner PROGRAM ORDER SEED FLUSH GRID(3) THREADGROUP(3) FILE ...
//
// Each file is a buffer, written back afterwards.

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "fiber.h"
#include "grid.h"

extern "C" void __asan_poison_memory_region(const volatile void* address, size_t bytes);

namespace {

[[noreturn]] void give_up(const char* what) {
  fprintf(stderr, "runner: %s: %s\n", what, strerror(errno));
  exit(2);
}

enum class Place { kBegin, kEnd };

// Between guard pages, at a multiple of 16 as on Metal. It begins behind the one, or ends before the
// other but for less than 16 bytes. AddressSanitizer watches those, and what is left of its pages.
class Buffer {
 public:
  Buffer(const char* path, Place place) : path_(path) {
    FILE* file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) give_up(path);
    bytes_ = size_t(ftell(file));
    rewind(file);
    size_t page = size_t(getpagesize());
    size_t pages = (bytes_ + page - 1) / page + 2;
    char* area =
        (char*)mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (area == MAP_FAILED) give_up("mmap");
    char* end = area + (pages - 1) * page;
    data_ = place == Place::kBegin ? area + page : end - (bytes_ + 15) / 16 * 16;
    if (fread(data_, 1, bytes_, file) != bytes_) give_up(path);
    fclose(file);
    mprotect(area, page, PROT_NONE);
    mprotect(end, page, PROT_NONE);
#ifdef EMULATOR_ADDRESS
    __asan_poison_memory_region(area, size_t(data_ - area));
    __asan_poison_memory_region(data_ + bytes_, size_t(end - data_) - bytes_ + page);
#endif
  }

  void write_back() const {
    FILE* file = fopen(path_, "wb");
    if (!file || fwrite(data_, 1, bytes_, file) != bytes_ || fclose(file)) give_up(path_);
  }

  bool same(const Buffer& other) const { return !memcmp(data_, other.data_, bytes_); }

  char* data() const { return data_; }

 private:
  const char* path_;
  size_t bytes_;
  char* data_;
};

using Buffers = std::vector<Buffer>;

// What went wrong; empty if nothing did.
std::string run(void* program, const uint32_t (&numbers)[9], const Buffers& buffers) {
  std::vector<void*> addresses;
  for (const Buffer& buffer : buffers) addresses.push_back(buffer.data());
  emulator::Launch launch = {(emulator::Bind)dlsym(program, "emulator_bind"),
                             (emulator::Body)dlsym(program, "emulator_run"),
                             addresses.data(),
                             numbers + 3,
                             numbers + 6,
                             emulator::Order(numbers[0]),
                             numbers[1],
                             numbers[2] != 0};
  return emulator::run(launch);
}

std::string run_watched(char** words, int count) {
  emulator::Unwatched here;
  void* program = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!program) give_up(dlerror());
  uint32_t numbers[9];
  for (int i = 0; i < 9; ++i) numbers[i] = uint32_t(strtoul(words[2 + i], nullptr, 10));
  Buffers buffers;
  for (int i = 11; i < count; ++i) buffers.emplace_back(words[i], Place::kEnd);
#ifdef EMULATOR_ADDRESS
  Buffers others;
  for (int i = 11; i < count; ++i) others.emplace_back(words[i], Place::kBegin);
  std::string elsewhere = run(program, numbers, others);
  if (!elsewhere.empty()) return elsewhere;
#endif
  std::string error = run(program, numbers, buffers);
  if (!error.empty()) return error;
  for (size_t i = 0; i < buffers.size(); ++i) {
#ifdef EMULATOR_ADDRESS
    if (!buffers[i].same(others[i])) {
      return "buffer " + std::to_string(i) + ": other results where buffers lie elsewhere";
    }
#endif
    buffers[i].write_back();
  }
  return "";
}

}  // namespace

int main(int count, char** words) {
  if (count < 11) give_up("runner: too few words");
  std::string error = run_watched(words, count);
  fprintf(stderr, "%s", error.c_str());
  return !error.empty();
}
