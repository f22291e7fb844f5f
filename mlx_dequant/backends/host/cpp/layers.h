// What models compute between products, in float32: MLX's CPU has a dozen nodes for each function.

#include "../loops/vectors.h"

enum Function { RMS_NORM, ROPE, ATTENTION, SWIGLU, FUNCTIONS };
enum Kind { PLAIN, CAUSAL, BOOLEANS, NUMBERS, PAIRS };  // of a mask; PAIRS: neighbours turn

// An array. Axes that it lacks come first, with length 1; axes of length 1 have stride 0.
struct View {
  const void* values;
  size_t shape[4];
  long strides[4];

  long at(size_t a, size_t b, size_t c) const {
    return long(a) * strides[0] + long(b) * strides[1] + long(c) * strides[2];
  }
  const float* row(size_t a, size_t b, size_t c) const {
    return (const float*)values + at(a, b, c);
  }
  const float* row(size_t i) const {
    return row(i / shape[2] / shape[1], i / shape[2] % shape[1], i % shape[2]);
  }
};

struct Call {
  Function function;
  Kind kind;
  float number;    // rms_norm: epsilon; rope: scale of positions; attention: of scores
  size_t dims;     // rope: elements of a row that turn
  View inputs[3];  // whose last axis has stride 1
  View other;      // rope: offsets; attention: the mask
  float* out;
};

static float dot(const float* a, const float* b, size_t count) {
  const size_t whole = count / VECTOR * VECTOR;
  vec sums = {};
  for (size_t i = 0; i < whole; i += VECTOR) sums += load_vec(a + i) * load_vec(b + i);
  float sum = total(sums);
  for (size_t i = whole; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// A step is a row.
static void rms_norm(const Call& call, size_t begin, size_t end) {
  const float* weight = (const float*)call.inputs[1].values;
  const size_t length = call.inputs[0].shape[3];
  for (size_t step = begin; step < end; ++step) {
    const float* x = call.inputs[0].row(step);
    float* out = call.out + step * length;
    const float scale = 1 / sqrtf(dot(x, x, length) / float(length) + call.number);
    for (size_t i = 0; i < length; ++i) out[i] = x[i] * scale * weight[i];
  }
}

// A step is a position, whose angles all heads share. As MLX's, they are products in float32.
static void rope(const Call& call, size_t begin, size_t end) {
  const View& x = call.inputs[0];
  const float* turns = (const float*)call.inputs[1].values;
  const size_t length = x.shape[3], half = call.dims / 2;
  std::vector<float> cosines(half), sines(half);
  for (size_t step = begin; step < end; ++step) {
    const size_t batch = step / x.shape[2], position = step % x.shape[2];
    const int offset = ((const int*)call.other.values)[long(batch) * call.other.strides[3]];
    for (size_t i = 0; i < half; ++i) {
      const float angle = (float(position) + float(offset)) * call.number * turns[i];
      cosines[i] = cosf(angle);
      sines[i] = sinf(angle);
    }
    for (size_t head = 0; head < x.shape[1]; ++head) {
      const float* from = x.row(batch, head, position);
      float* out = call.out + ((batch * x.shape[1] + head) * x.shape[2] + position) * length;
      for (size_t i = 0; i < half; ++i) {
        const size_t one = call.kind == PAIRS ? 2 * i : i;
        const size_t other = call.kind == PAIRS ? one + 1 : i + half;
        out[one] = from[one] * cosines[i] - from[other] * sines[i];
        out[other] = from[one] * sines[i] + from[other] * cosines[i];
      }
      for (size_t i = 2 * half; i < length; ++i) out[i] = from[i];
    }
  }
}

// A step is a query of a head: softmax(q K^T * number + mask) V.
static void attention(const Call& call, size_t begin, size_t end) {
  const View &q = call.inputs[0], &k = call.inputs[1], &v = call.inputs[2], &mask = call.other;
  const size_t depth = q.shape[3], width = v.shape[3], keys = k.shape[2];
  std::vector<float> scores(keys);
  for (size_t step = begin; step < end; ++step) {
    const size_t place = step % q.shape[2], head = step / q.shape[2] % q.shape[1];
    const size_t batch = step / q.shape[2] / q.shape[1], shared = head * k.shape[1] / q.shape[1];
    const size_t count = call.kind == CAUSAL ? keys - q.shape[2] + place + 1 : keys;
    float most = -std::numeric_limits<float>::infinity(), sum = 0;
    for (size_t j = 0; j < count; ++j) {
      float score = dot(q.row(step), k.row(batch, shared, j), depth) * call.number;
      const long at = mask.at(batch, head, place) + long(j) * mask.strides[3];
      if (call.kind == NUMBERS) score += ((const float*)mask.values)[at];
      if (call.kind == BOOLEANS && !((const bool*)mask.values)[at])
        score = std::numeric_limits<float>::lowest();
      scores[j] = score;
      most = score > most ? score : most;
    }
    for (size_t j = 0; j < count; ++j) sum += scores[j] = expf(scores[j] - most);
    float* out = call.out + step * width;
    for (size_t i = 0; i < width; ++i) out[i] = 0;
    for (size_t j = 0; j < count; ++j) {
      const float *row = v.row(batch, shared, j), weight = scores[j] / sum;
      for (size_t i = 0; i < width; ++i) out[i] += weight * row[i];
    }
  }
}

// A step is a row: a / (1 + e^-a) * b.
static void swiglu(const Call& call, size_t begin, size_t end) {
  const size_t length = call.inputs[0].shape[3];
  for (size_t step = begin; step < end; ++step) {
    const float *a = call.inputs[0].row(step), *b = call.inputs[1].row(step);
    float* out = call.out + step * length;
    for (size_t i = 0; i < length; ++i) out[i] = a[i] / (1 + expf(-a[i])) * b[i];
  }
}

// A loop over a call's steps, as the driver takes it (threads.h).
static void run(void* const* arrays, const void*, size_t begin, size_t end) {
  static void (*const functions[FUNCTIONS])(const Call&, size_t, size_t) = {rms_norm, rope,
                                                                            attention, swiglu};
  const Call& call = *(const Call*)arrays[0];
  functions[call.function](call, begin, end);
}
