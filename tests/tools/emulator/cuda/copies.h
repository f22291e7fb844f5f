// Copies to shared memory that go on while a thread does, by cp.async and by cp.async.bulk. They
// are carried out when a thread waits for them, no sooner; until then what is there is NaN.

namespace emulator {

struct Copy {
  char* to;
  const char* from;
  uint32_t bytes;
  uint32_t barrier;  // its address; 0 for copies that a thread waits for
};

inline Copy begin_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  Copy copy = {shared_at(to, bytes, 16), (const char*)from, bytes, barrier};
  if (size_t(from) % 16 || bytes % 16) hooks->fail("cp.async: misaligned address or size");
  memset(copy.to, 0xff, bytes);
  return copy;
}

inline void carry_out(const Copy& copy) { memcpy(copy.to, copy.from, copy.bytes); }

// An mbarrier. A phase ends when all threads arrived that are to, and all bytes that they expect.
struct Barrier {
  uint64_t mark : 8, phase : 1, arriving : 11, missing : 11;
  int64_t bytes : 33;

  void check() {
    if (missing || bytes) return;
    phase ^= 1;
    missing = arriving;
  }
};

static const uint8_t barrier_mark = 0xb5;

inline void begin_barrier(uint32_t address, uint32_t arriving) {
  *(Barrier*)shared_at(address, sizeof(Barrier), 8) = {barrier_mark, 0, arriving, arriving, 0};
}

inline Barrier& barrier_at(uint32_t address) {
  Barrier& barrier = *(Barrier*)shared_at(address, sizeof(Barrier), 8);
  if (barrier.mark != barrier_mark) hooks->fail("mbarrier: none was initialised here");
  return barrier;
}

inline void arrive(uint32_t address, uint32_t bytes) {
  Barrier& barrier = barrier_at(address);
  if (!barrier.missing) hooks->fail("mbarrier: more arrive than it was initialised for");
  barrier.bytes += int32_t(bytes);
  --barrier.missing;
  barrier.check();
}

struct Try {
  std::vector<Copy>& copies;  // of the threadgroup
  bool& failed;               // whether the thread's last try did
  uint32_t address;
  uint32_t parity;
  Barrier& barrier = barrier_at(address);

  bool done() const { return barrier.phase != parity; }

  static bool may_go_on(void* what) {
    const Try& self = *(const Try*)what;
    bool copying = false;
    for (const Copy& copy : self.copies) copying |= copy.barrier == self.address;
    return copying || self.done();
  }

  // Whether the phase has ended. A first try fails if it has not, but there is something to do for
  // it by then; the next does it.
  bool wait(Site site) {
    if (!done() && !failed) {
      hooks->wait(site, may_go_on, this);
      failed = true;
      return false;
    }
    failed = false;
    for (size_t i = 0; i < copies.size() && !done();) {
      if (copies[i].barrier != address) {
        ++i;
        continue;
      }
      carry_out(copies[i]);
      barrier.bytes -= int32_t(copies[i].bytes);
      barrier.check();
      copies.erase(copies.begin() + i);
    }
    return done();
  }
};

}  // namespace emulator
