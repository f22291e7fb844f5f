// The driver's products and look-ups as nodes of MLX's graphs: computed when somebody reads them.
// Compiled for the installed MLX, whose headers and library its wheel has.

#include <math.h>
#include <string.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <mlx/allocator.h>
#include <mlx/array.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>

namespace mlx_dequant {

namespace core = mlx::core;
using core::array;

static const char NAME[] = "MLXDequant";  // of our nodes, or the beginning of it

enum Operation { PRODUCT, EXPERT_PRODUCT, LOOK_UP };

// The driver's functions.
struct Driver {
  int (*product)(const void* operand, int type, const void* x, size_t M, void* out,
                 unsigned threads);
  int (*expert_product)(const void* operand, int type, const void* x, const int* ids, size_t pairs,
                        size_t choices, void* out, unsigned threads);
  int (*look_up)(const void* operand, void* loop, int type, const int* ids, size_t count, void* out,
                 unsigned threads);
};

// A matrix: the driver's operand, and the arrays whose memory it refers to.
struct Matrix {
  std::vector<char> operand;
  std::vector<array> arrays;
  int inputs, outputs;
  Driver driver;
};

static int type_of(core::Dtype dtype) {
  return dtype == core::float32 ? 0 : dtype == core::float16 ? 1 : 2;
}

static core::Stream cpu_stream() {
  const core::Device device = core::default_device();
  return core::default_stream(device == core::Device::cpu ? device
                                                          : core::Device(core::Device::cpu));
}

class Packed : public core::Primitive {
 public:
  Packed(core::Stream stream, Operation operation, std::shared_ptr<Matrix> matrix, void* loop,
         unsigned threads)
      : Primitive(stream),
        operation_(operation),
        matrix_(std::move(matrix)),
        loop_(loop),
        threads_(threads) {}

  const char* name() const override { return NAME; }

  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const Packed&>(other);
    return operation_ == same.operation_ && matrix_ == same.matrix_ && loop_ == same.loop_;
  }

  // x [..., inputs] to [..., outputs]; ids [...] to [..., outputs].
  std::vector<core::Shape> output_shapes(const std::vector<array>& inputs) override {
    core::Shape shape = inputs.back().shape();
    if (operation_ == PRODUCT) shape.pop_back();
    shape.push_back(matrix_->outputs);
    return {shape};
  }

  // Mapped axes become leading axes.
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>& inputs,
                                                       const std::vector<int>& axes) override {
    int count = 1;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (axes[i] >= 0) count = inputs[i].shape(axes[i]);
    }
    std::vector<array> mapped;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (axes[i] >= 0) {
        mapped.push_back(core::moveaxis(inputs[i], axes[i], 0, stream()));
      } else {
        core::Shape shape = inputs[i].shape();
        shape.insert(shape.begin(), count);
        mapped.push_back(core::broadcast_to(inputs[i], shape, stream()));
      }
    }
    return {{node(operation_, matrix_, loop_, threads_, std::move(mapped), dtype_, stream())}, {0}};
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("mlx-dequant: the host backend's products run on the CPU");
  }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    array& out = outputs[0];
    auto memory = core::allocator::malloc(out.nbytes());
    if (!memory.buffer().ptr()) throw std::bad_alloc();
    out.set_data(std::move(memory));
    const void* x = inputs[0].data<void>();
    const int* ids = inputs.back().data<int>();
    const size_t count = inputs.back().size();
    const size_t choices = inputs.back().ndim() ? inputs.back().shape(-1) : 1;
    const int type = type_of(out.dtype());
    void* to = out.data<void>();
    auto& encoder = core::cpu::get_command_encoder(stream());
    for (const array& input : inputs) encoder.set_input_array(input);
    encoder.set_output_array(out);
    encoder.dispatch(
        [=, operation = operation_, matrix = matrix_, loop = loop_, threads = threads_] {
          const void* operand = matrix->operand.data();
          const Driver& driver = matrix->driver;
          const int failed =
              operation == PRODUCT
                  ? driver.product(operand, type, x, count / size_t(matrix->inputs), to, threads)
              : operation == LOOK_UP
                  ? driver.look_up(operand, loop, type, ids, count, to, threads)
                  : driver.expert_product(operand, type, x, ids, count, choices, to, threads);
          if (failed) throw std::bad_alloc();
        });
  }

  // A new node of a graph.
  static array node(Operation operation, std::shared_ptr<Matrix> matrix, void* loop,
                    unsigned threads, std::vector<array> inputs, core::Dtype dtype,
                    core::Stream stream) {
    for (array& input : inputs) {
      // Our own nodes' results are in one piece.
      const bool ours =
          input.has_primitive() && !strncmp(input.primitive().name(), NAME, strlen(NAME));
      if (!ours) input = core::contiguous(input, false, stream);
    }
    auto primitive = std::make_shared<Packed>(stream, operation, std::move(matrix), loop, threads);
    primitive->dtype_ = dtype;
    core::Shape shape = primitive->output_shapes(inputs)[0];
    return array(std::move(shape), dtype, std::move(primitive), std::move(inputs));
  }

 private:
  Operation operation_;
  std::shared_ptr<Matrix> matrix_;
  void* loop_;
  unsigned threads_;
  core::Dtype dtype_ = core::float32;
};

#include "layers_node.h"

// The array of a Python object. nanobind, which MLX's Python module is made with, puts behind the
// object's head where the C++ object is, and whether it is there itself or its address.
static array& array_of(void* object, size_t head) {
  struct Place {
    int offset;
    unsigned state : 2;
    unsigned direct : 1;
  };
  const Place* place = (const Place*)((char*)object + head);
  char* at = (char*)object + place->offset;
  return *(place->direct ? (array*)at : *(array**)at);
}

static thread_local std::string message;

template <typename F>
static const char* caught(F&& work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "an unknown error";
  }
  return message.c_str();
}

}  // namespace mlx_dequant

using namespace mlx_dequant;

// Keeps a matrix for graphs: a copy of the driver's operand of `size` bytes, and `count` arrays.
extern "C" const char* keep(const void* operand, size_t size, void* const* arrays, size_t count,
                            int inputs, int outputs, const Driver* driver, size_t head,
                            void** result) {
  return caught([&] {
    auto matrix = std::make_shared<Matrix>();
    matrix->operand.assign((const char*)operand, (const char*)operand + size);
    for (size_t i = 0; i < count; ++i) matrix->arrays.push_back(array_of(arrays[i], head));
    matrix->inputs = inputs;
    matrix->outputs = outputs;
    matrix->driver = *driver;
    *result = new std::shared_ptr<Matrix>(std::move(matrix));
  });
}

extern "C" void drop(void* matrix) { delete (std::shared_ptr<Matrix>*)matrix; }

// Whether a Python array has its values, so that reading them waits for nothing.
extern "C" int has_values(const void* object, size_t head) {
  const array& it = array_of((void*)object, head);
  return !it.is_tracer() && it.is_available() && it.data_shared_ptr() != nullptr;
}

// Whether one of MLX's transformations traces a Python array.
extern "C" int is_tracer(const void* object, size_t head) {
  return array_of((void*)object, head).is_tracer();
}

// Makes the Python array `out` the result of an operation on the Python arrays `inputs`. type: the
// driver's number of the result's type.
extern "C" const char* put(int operation, void* matrix, void* loop, unsigned threads,
                           void* const* inputs, size_t count, int type, size_t head, void* out) {
  return caught([&] {
    std::vector<array> arrays;
    for (size_t i = 0; i < count; ++i) arrays.push_back(array_of(inputs[i], head));
    const core::Dtype dtype = type == 0   ? core::float32
                              : type == 1 ? core::float16
                                          : core::bfloat16;
    array made = Packed::node(Operation(operation), *(std::shared_ptr<Matrix>*)matrix, loop,
                              threads, std::move(arrays), dtype, cpu_stream());
    array_of(out, head).overwrite_descriptor(made);
  });
}

extern "C" void use_driver(EachStep found) { each_step = found; }

// As `put`, for a function of layers.h, whose missing inputs are null. Returns "" and leaves `out` as
// it is where MLX has to compute.
extern "C" const char* put_layer(int function, int kind, float number, int dims, void* x,
                                 void* second, void* third, void* fourth, unsigned threads,
                                 size_t head, void* out) {
  bool fit = false;
  const char* error = caught([&] {
    std::vector<array> arrays;
    for (void* each : {x, second, third, fourth}) {
      if (each) arrays.push_back(array_of(each, head));
    }
    Call call = {Function(function), Kind(kind), number, size_t(dims), {}, {}, nullptr};
    if (fourth) call.kind = arrays[3].dtype() == core::bool_ ? BOOLEANS : NUMBERS;
    fit = fits(call, arrays);
    if (!fit) return;
    core::Shape shape = arrays[0].shape();
    if (function == ATTENTION) shape.back() = arrays[2].shape(-1);
    auto node = std::make_shared<Layer>(cpu_stream(), call, threads);
    array made(std::move(shape), core::float32, std::move(node), std::move(arrays));
    array_of(out, head).overwrite_descriptor(made);
  });
  return error ? error : fit ? nullptr : "";
}
