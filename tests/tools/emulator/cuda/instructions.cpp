// What is the same in every program, compiled once.

#include <stdio.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda.h"

#include "copies.h"
#include "products.h"

namespace emulator {

// What the threads of a threadgroup began and did not wait for yet.
struct Begun {
  struct {
    std::vector<Copy> copies;
    Products products;
    bool try_failed = false;
  } threads[1024];
  std::vector<Copy> copies;  // those that complete a barrier

  static const char* drop(void* begun) {
    std::unique_ptr<Begun> all((Begun*)begun);
    bool open = !all->copies.empty();
    for (const auto& thread : all->threads) open |= !thread.copies.empty();
    return open ? "cp.async: the threadgroup ended before a copy did" : nullptr;
  }

  void add(const Copy& copy) {
    for (const Copy& other : copies) {
      if (copy.to < other.to + other.bytes && other.to < copy.to + copy.bytes) {
        hooks->fail("cp.async: another copy into the same place is not done");
      }
    }
    copies.push_back(copy);
  }
};

inline Begun& begun() {
  void** kept = hooks->kept(Begun::drop);
  if (!*kept) *kept = new Begun;
  return *(Begun*)*kept;
}

inline std::string names(unsigned begin, unsigned end) {
  std::string all;
  for (unsigned i = begin; i < end; ++i) all += (i > begin ? ",%" : "%") + std::to_string(i);
  return all;
}

// Of `count` sums.
inline const std::string& wgmma(unsigned count, const char* type) {
  static std::string made[65][2];
  std::string& text = made[count][*type == 'b'];
  if (text.empty()) {
    text = "{ .reg .pred p; setp.eq.u32 p,0,0; wgmma.mma_async.sync.aligned.m64n" +
           std::to_string(count * 2) + "k16.f32." + type + "." + type + " {" + names(0, count) +
           "},{" + names(count, count + 4) + "}," + names(count + 4, count + 5) + ",p,1,1,0; }";
  }
  return text;
}

#define MMA(type)                                        \
  "mma.sync.aligned.m16n8k16.row.col.f32." type "." type \
  ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"

void instruction(const char* text, std::initializer_list<Operand> operands, const char* file,
                 int line) {
  const Operand* o = operands.begin();
  size_t count = operands.size();
  auto is = [&](const std::string& expected, size_t expected_count) {
    return text == expected && count == expected_count;
  };
  Begun& all = begun();
  auto& mine = all.threads[hooks->self()->thread_index_in_threadgroup];
  size_t sums = count > 5 ? count - 5 : 0;
  if (sums % 4 == 0 && 0 < sums && sums <= 64) {
    bool half = text == wgmma(unsigned(sums), "f16");
    if (half || text == wgmma(unsigned(sums), "bf16")) {
      Product product = {half, {}, o[sums + 4].value};
      for (size_t i = 0; i < sums; ++i) product.sums.push_back(o[i].sum());
      for (size_t i = 0; i < 4; ++i) product.left[i] = (const uint32_t*)o[sums + i].place;
      mine.products.begin(std::move(product));
      return;
    }
  }
  if (is(MMA("f16"), 10) || is(MMA("bf16"), 10)) {
    multiply_add(is(MMA("f16"), 10), {o[0].sum(), o[1].sum(), o[2].sum(), o[3].sum()},
                 {o[4], o[5], o[6], o[7]}, {o[8], o[9]}, {"mma", file, line});
  } else if (is("wgmma.fence.sync.aligned;", 0)) {
    mine.products.fenced = true;
  } else if (is("wgmma.commit_group.sync.aligned;", 0)) {
    mine.products.commit();
  } else if (is("wgmma.wait_group.sync.aligned 0;", 0)) {
    mine.products.wait({"wgmma.wait_group", file, line});
  } else if (is("cp.async.cg.shared.global [%0],[%1],16;", 2)) {
    mine.copies.push_back(begin_copy(o[0], o[1].pointer(), 16, 0));
  } else if (is("cp.async.wait_all;", 0)) {
    for (const Copy& copy : mine.copies) carry_out(copy);
    mine.copies.clear();
  } else if (is("mbarrier.init.shared::cta.b64 [%0],1;", 1)) {
    begin_barrier(o[0], 1);
  } else if (is("mbarrier.init.shared::cta.b64 [%0],8;", 1)) {
    begin_barrier(o[0], 8);
  } else if (is("mbarrier.arrive.shared::cta.b64 _,[%0];", 1)) {
    arrive(o[0], 0);
  } else if (is("lop3.b32 %0,%1,%2,%3,0xea;", 4)) {
    *(uint32_t*)o[0].place = (o[1] & o[2]) | o[3];
  } else if (is("fence.proxy.async.shared::cta;", 0) ||
             is("fence.mbarrier_init.release.cluster;", 0) || is("", 1)) {
    // Nothing that a program could see.
  } else if (is("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;", 2)) {
    arrive(o[0], o[1]);
  } else if (is("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                " [%0],[%1],%2,[%3];",
                4)) {
    barrier_at(o[3]);
    all.add(begin_copy(o[0], o[1].pointer(), o[2], o[3]));
  } else if (is("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2; "
                "selp.u32 %0,1,0,p; }",
                3)) {
    Try attempt = {all.copies, mine.try_failed, o[1], o[2]};
    *(uint32_t*)o[0].place = attempt.wait({"mbarrier.try_wait", file, line});
  } else {
    hooks->fail((std::string("no such instruction here: ") + text).c_str());
  }
}

#undef MMA

}  // namespace emulator

// A GPU faults where an address is no multiple of what is read or written there. The compiler's
// check of that calls this function, which stands in for its library's.

#ifndef EMULATOR_ADDRESS

struct MisalignedAccess {
  const char* file;
  uint32_t line, column;
};

extern "C" void __ubsan_handle_type_mismatch_v1(const MisalignedAccess* access, size_t) {
  char what[256];
  snprintf(what, sizeof what, "misaligned address (%s:%u)", access->file, access->line);
  emulator::hooks->fail(what);
}

#endif
