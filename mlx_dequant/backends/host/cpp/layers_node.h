// The functions of layers.h as nodes of MLX's graphs.

#include "layers.h"

// The driver's function that shares a loop's steps between threads.
typedef void (*EachStep)(void* loop, void* const* arrays, const void* params, size_t steps,
                         size_t weights, unsigned threads);
static EachStep each_step;

static View view(const array& x) {
  View made = {x.data<void>(), {1, 1, 1, 1}, {}};
  for (int i = -1; i >= -int(x.ndim()); --i) {
    made.shape[4 + i] = size_t(x.shape(i));
    made.strides[4 + i] = x.shape(i) == 1 ? 0 : long(x.strides(i));
  }
  return made;
}

// Makes x a view of `copies`, its elements one after the other.
static void copy(View& x, std::vector<float>& copies) {
  const size_t length = x.shape[3];
  copies.resize(x.shape[0] * x.shape[1] * x.shape[2] * length);
  for (size_t i = 0; i < copies.size(); ++i) {
    copies[i] = x.row(i / length)[long(i % length) * x.strides[3]];
  }
  x.values = copies.data();
  for (long axis = 3, stride = 1; axis >= 0; stride *= long(x.shape[axis--])) {
    x.strides[axis] = stride;
  }
}

class Layer : public core::Primitive {
 public:
  Layer(core::Stream stream, const Call& call, unsigned threads)
      : Primitive(stream), call_(call), threads_(threads) {}

  const char* name() const override { return "MLXDequantLayer"; }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("mlx-dequant: the host backend's functions run on the CPU");
  }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    Call call = call_;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const bool other = i == 3 || (call.function == ROPE && i == 2);
      (other ? call.other : call.inputs[i]) = view(inputs[i]);
    }
    array& out = outputs[0];
    auto memory = core::allocator::malloc(out.nbytes());
    if (!memory.buffer().ptr()) throw std::bad_alloc();
    out.set_data(std::move(memory));
    call.out = out.data<float>();
    auto& encoder = core::cpu::get_command_encoder(stream());
    for (const array& input : inputs) encoder.set_input_array(input);
    encoder.set_output_array(out);
    encoder.dispatch([call, threads = threads_]() mutable {
      static struct {
        decltype(&run) function;
        double cost;
      } loops[FUNCTIONS] = {{run, 0}, {run, 0}, {run, 0}, {run, 0}};
      static const unsigned params[64] = {};  // of a format, of no meaning here
      std::vector<float> copies[3];
      for (size_t i = 0; i < 3; ++i) {
        View& x = call.inputs[i];
        if (x.values && x.shape[3] > 1 && x.strides[3] != 1) copy(x, copies[i]);
      }
      const View& x = call.inputs[0];
      const bool is_rope = call.function == ROPE, is_attention = call.function == ATTENTION;
      const size_t steps = x.shape[0] * x.shape[2] * (is_rope ? 1 : x.shape[1]);
      const size_t rows = is_rope ? x.shape[1] : is_attention ? call.inputs[1].shape[2] : 1;
      void* arrays[] = {&call};
      each_step(&loops[call.function], arrays, params, steps, rows * x.shape[3], threads);
    });
  }

 private:
  Call call_;
  unsigned threads_;
};

// Whether a function of layers.h takes these arrays. Those that a transformation traces are MLX's.
static bool fits(const Call& call, const std::vector<array>& x) {
  for (size_t i = 0; i < x.size(); ++i) {
    const bool offset = call.function == ROPE && i == 2;
    const bool good = x[i].dtype() == (offset ? core::int32 : core::float32);
    if (!good && !(i == 3 && x[i].dtype() == core::bool_)) return false;
    if (x[i].is_tracer() || x[i].ndim() > 4 || !x[i].size()) return false;
  }
  const core::Shape &first = x[0].shape(), &second = x[1].shape();
  if (first.empty()) return false;
  if (call.function == SWIGLU) return first == second;
  if (call.function == RMS_NORM) return second == core::Shape{first.back()};
  if (first.size() != 4) return false;
  if (call.function == ROPE) {
    const int dims = int(call.dims), offsets = int(x[2].size());
    if (dims <= 0 || dims % 2 || dims > first[3] || second != core::Shape{dims / 2}) return false;
    return x[2].ndim() < 2 && (offsets == 1 || offsets == first[0]);
  }
  const core::Shape& third = x[2].shape();
  if (second.size() != 4 || third.size() != 4 || second[0] != first[0]) return false;
  if (second[3] != first[3] || first[1] % second[1]) return false;
  if (!std::equal(second.begin(), second.end() - 1, third.begin())) return false;
  if (call.kind == CAUSAL && second[2] < first[2]) return false;
  const int wanted[] = {first[0], first[1], first[2], second[2]};
  for (int i = -1; x.size() == 4 && i >= -int(x[3].ndim()); --i) {
    if (x[3].shape(i) != 1 && x[3].shape(i) != wanted[4 + i]) return false;
  }
  return true;
}
