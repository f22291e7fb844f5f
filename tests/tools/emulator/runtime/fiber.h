// A stack of its own that runs until it suspends.

#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <memory>

namespace emulator {

class Fiber {
 public:
  Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  // From the scheduler: runs the fiber until it suspends.
  void resume();
  // From the fiber: goes back to the scheduler.
  void suspend();

 private:
  static void begin();
  void switched_in();

  void (*entry_)();
  void* stack_;
  ucontext_t context_;
  ucontext_t scheduler_;
  void* sanitizer_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;
};

// Lets go of a fiber whose thread returned.
void retire(std::unique_ptr<Fiber> fiber);

// For ThreadSanitizer: what was written before a release is seen after an acquire.
void sanitizer_release(void* sync);
void sanitizer_acquire(void* sync);

// Memory that the runtime itself hands out or takes back is no part of a race.
class Unwatched {
 public:
  Unwatched();
  ~Unwatched();
};

}  // namespace emulator
