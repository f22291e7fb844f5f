// A stack of its own that runs until it suspends.

#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>

#if defined(EMULATOR_ADDRESS) || defined(EMULATOR_THREAD)
#define EMULATOR_WATCHED
#endif

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
  void switch_in();
  void switch_out();
  void switched_in();

  void (*entry_)();
  void* stack_;
  ucontext_t context_;
#ifdef EMULATOR_WATCHED
  ucontext_t scheduler_;
#else
  bool begun_ = false;
  jmp_buf here_;
  jmp_buf scheduler_;
#endif
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
