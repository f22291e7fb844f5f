// The instructions that programs write in assembly, as NVIDIA's PTX ISA describes them.
// A program's asm statements come as calls of `instruction`: text, outputs, inputs.

#include <stdio.h>

namespace executor {

inline bool is(const char* text, const char* expected) { return !strcmp(text, expected); }

inline void unknown(const char* text) {
  char what[256];
  snprintf(what, sizeof what, "no such instruction here: %s", text);
  hooks->fail(what);
}

// Addresses in shared memory have 32 bits; the others are those of any address in it.
static const char* in_shared_memory;

// Four 8 x 8 blocks of 16 bits: lane i tells where row i % 8 of block i / 8 lies, and gets, of each
// block, two neighbours of row lane / 4; of its transpose with `trans`.
inline void instruction(const char* text, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d,
                        uint32_t address, EXECUTOR_AT) {
  bool transposed =
      is(text, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];");
  if (!transposed &&
      !is(text, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];")) {
    unknown(text);
  }
  struct Row {
    uint16_t values[8];
  };
  const char* from = in_shared_memory + int32_t(address - uint32_t(size_t(in_shared_memory)));
  if (address % 16) hooks->fail("ldmatrix: misaligned address");
  Row mine;
  memcpy(&mine, from, sizeof mine);
  Lanes<Row> rows({"ldmatrix", file, line}, mine);
  uint32_t* parts[4] = {&a, &b, &c, &d};
  for (unsigned block = 0; block < 4; ++block) {
    uint32_t pair[2];
    for (unsigned i = 0; i < 2; ++i) {
      unsigned row = lane() / 4;
      unsigned column = lane() % 4 * 2 + i;
      pair[i] =
          transposed ? rows[block * 8 + column].values[row] : rows[block * 8 + row].values[column];
    }
    *parts[block] = pair[0] | pair[1] << 16;
  }
}

// d += a * b, 16 x 8 sums of 16 x 16 and 16 x 8 factors. A lane holds two neighbours of d in row
// lane / 4 and two in row lane / 4 + 8; of a the same, then those 8 columns on; of b, by columns,
// two neighbours of column lane / 4, then those 8 rows on.
inline void instruction(const char* text, float& d0, float& d1, float& d2, float& d3, uint32_t a0,
                        uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                        EXECUTOR_AT) {
#define MMA(type)                                        \
  "mma.sync.aligned.m16n8k16.row.col.f32." type "." type \
  ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
  bool half = is(text, MMA("f16"));
  if (!half && !is(text, MMA("bf16"))) unknown(text);
#undef MMA
  struct Factors {
    uint32_t a[4], b[2];
  };
  Lanes<Factors> lanes({"mma", file, line}, Factors{{a0, a1, a2, a3}, {b0, b1}});
  float left[2][16], right[2][16];  // rows and columns of this lane
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned k = 0; k < 16; ++k) {
      unsigned at = k % 8 / 2;
      uint32_t a = lanes[lane() / 4 * 4 + at].a[i + k / 8 * 2];
      uint32_t b = lanes[(lane() % 4 * 2 + i) * 4 + at].b[k / 8];
      uint16_t x = uint16_t(a >> k % 2 * 16), y = uint16_t(b >> k % 2 * 16);
      left[i][k] = half ? metal::half_code::unpack(x) : metal::bfloat_code::unpack(x);
      right[i][k] = half ? metal::half_code::unpack(y) : metal::bfloat_code::unpack(y);
    }
  }
  float* sums[4] = {&d0, &d1, &d2, &d3};
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned k = 0; k < 16; ++k) *sums[i] += left[i / 2][k] * right[i % 2][k];
  }
}

}  // namespace executor

inline size_t __cvta_generic_to_shared(const void* p) {
  executor::in_shared_memory = (const char*)p;
  return size_t(p);
}
