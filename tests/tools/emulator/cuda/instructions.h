// The instructions that programs write in assembly, as NVIDIA's PTX ISA describes them.
// A program's asm statements come as calls of `instruction`: text, then outputs and inputs.

#include <initializer_list>

namespace emulator {

struct Operand {
  void* place;
  uint64_t value;
  Operand(const uint32_t& word) : place((void*)&word), value(word) {}
  Operand(unsigned long long number) : place(nullptr), value(number) {}
  Operand(const void* pointer) : place(nullptr), value(size_t(pointer)) {}
  Operand(float& number) : place(&number), value(0) {}
  operator uint32_t() const { return uint32_t(value); }
  const void* pointer() const { return (const void*)value; }
  float* sum() const { return (float*)place; }
};

void instruction(const char* text, std::initializer_list<Operand> operands, EMULATOR_AT);

}  // namespace emulator
