// Its longjmp refuses another stack.
#undef _FORTIFY_SOURCE

#include "fiber.h"

#include <deque>
#include <new>

extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* bytes);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* sync);
void __tsan_release(void* sync);
void __tsan_ignore_thread_begin();
void __tsan_ignore_thread_end();
}

namespace emulator {

namespace {

const size_t kStackBytes = 256 * 1024;
thread_local Fiber* starting;
#ifdef EMULATOR_THREAD
// A switch is no synchronisation: only barriers are.
const unsigned kNoSync = 1;
thread_local void* scheduler_fiber;
#endif
#ifndef EMULATOR_WATCHED
thread_local std::deque<void*> spare_stacks;
#endif

void* new_stack() {
#ifndef EMULATOR_WATCHED
  if (!spare_stacks.empty()) {
    void* spare = spare_stacks.back();
    spare_stacks.pop_back();
    return spare;
  }
#endif
  void* made = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (made == MAP_FAILED) throw std::bad_alloc();
  return made;
}

void drop_stack(void* stack) {
#ifdef EMULATOR_WATCHED
  munmap(stack, kStackBytes);
#else
  spare_stacks.push_back(stack);
#endif
}

}  // namespace

Fiber::Fiber(void (*entry)()) : entry_(entry), stack_(new_stack()) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, begin, 0);
  // AddressSanitizer's swapcontext would forget the red zones of a stack that it knows.
  context_.uc_stack.ss_size = 0;
#ifdef EMULATOR_THREAD
  sanitizer_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef EMULATOR_THREAD
  __tsan_destroy_fiber(sanitizer_);
#endif
  drop_stack(stack_);
}

void Fiber::begin() {
  Fiber* self = starting;
  self->switched_in();
  self->entry_();
}

void Fiber::switched_in() {
#ifdef EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(sanitizer_, &scheduler_stack_, &scheduler_bytes_);
#endif
}

#ifdef EMULATOR_WATCHED

void Fiber::switch_in() { swapcontext(&scheduler_, &context_); }

void Fiber::switch_out() { swapcontext(&context_, &scheduler_); }

#else

// Without the signals' masks, which swapcontext asks the kernel for at each switch.
void Fiber::switch_in() {
  if (_setjmp(scheduler_)) return;
  if (begun_) _longjmp(here_, 1);
  begun_ = true;
  setcontext(&context_);
}

void Fiber::switch_out() {
  if (!_setjmp(here_)) _longjmp(scheduler_, 1);
}

#endif

void Fiber::resume() {
  starting = this;
#ifdef EMULATOR_ADDRESS
  void* mine;
  __sanitizer_start_switch_fiber(&mine, stack_, kStackBytes);
#endif
#ifdef EMULATOR_THREAD
  scheduler_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(sanitizer_, kNoSync);
#endif
  switch_in();
#ifdef EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#ifdef EMULATOR_ADDRESS
  __sanitizer_start_switch_fiber(&sanitizer_, scheduler_stack_, scheduler_bytes_);
#endif
#ifdef EMULATOR_THREAD
  __tsan_switch_to_fiber(scheduler_fiber, kNoSync);
#endif
  switch_out();
  switched_in();
}

void retire(std::unique_ptr<Fiber> fiber) {
#ifdef EMULATOR_THREAD
  // ThreadSanitizer gives the number of a thread that ended to a new one, and then takes the two
  // for one. It has 8,000 of them.
  static std::deque<std::unique_ptr<Fiber>> retired;
  retired.push_back(std::move(fiber));
  if (retired.size() > 4096) retired.pop_front();
#else
  fiber.reset();
#endif
}

void sanitizer_release(void* sync) {
#ifdef EMULATOR_THREAD
  __tsan_release(sync);
#else
  (void)sync;
#endif
}

void sanitizer_acquire(void* sync) {
#ifdef EMULATOR_THREAD
  __tsan_acquire(sync);
#else
  (void)sync;
#endif
}

Unwatched::Unwatched() {
#ifdef EMULATOR_THREAD
  __tsan_ignore_thread_begin();
#endif
}

Unwatched::~Unwatched() {
#ifdef EMULATOR_THREAD
  __tsan_ignore_thread_end();
#endif
}

}  // namespace emulator
