"""Mutations that Metal's compiler refuses, or takes and does something else with. The check must see each.

name: (text in our namespace, kernel body, a part of what the check says)
"""

from __future__ import annotations

_SPACE = "has no address space"
_CONVERSION = "implicit conversion"
_OUTSIDE = "outside namespace mlx_dequant"
_MATRIX = "#include <metal_simdgroup_matrix>"

MUTATIONS: dict[str, tuple[str, str, str]] = {
    # Address spaces
    "parameter": ("inline uint f(const uint8_t* p) { return p[0]; }", "out[0] = f(w);", _SPACE),
    "unused_parameter": ("inline void f(thread uint* q, const uint8_t* p) { q[0] = p[0]; }", "", _SPACE),
    "reference_parameter": ("inline void f(float& x) { x = 1.0f; }", "float x; f(x); out[0] = x;", _SPACE),
    "template_parameter": ("template <typename T> inline T f(const T* p) { return p[0]; }", "", _SPACE),
    "template_reference": ("template <typename T> inline void f(T& x) { x = T(0); }", "", _SPACE),
    "field": ("struct s { const uint8_t* p; };", "", _SPACE),
    "template_field": ("template <typename T> struct s { const T* p; };", "", _SPACE),
    "result": ("inline float* f(thread float* p) { return p; }", "", _SPACE),
    "alias": ("typedef float* pointer;", "", _SPACE),
    "using_alias": ("using pointer = const float*;", "", _SPACE),
    "local_pointer": ("", "const uint8_t* p = w; out[0] = p[0];", _SPACE),
    "local_pointer_to_thread": ("", "float a[2] = {0, 1}; float* p = a; out[0] = p[1];", _SPACE),
    "local_reference": ("", "float a = 1.0f; float& b = a; out[0] = b;", _SPACE),
    "auto_reference": ("", "float a = 1.0f; auto& b = a; out[0] = b;", _SPACE),
    "array_of_pointers": ("struct s { const float* p[4]; };", "", _SPACE),
    "array_of_template_pointers": ("template <typename T, int N> struct s { const T* p[N]; };", "", _SPACE),
    "inner_pointer": ("inline void f(float* thread* p) { *p = nullptr; }", "", _SPACE),
    "cast": ("", "out[0] = *(const uint16_t*)w;", _SPACE),
    "template_cast": (
        "template <typename T> inline T f(device const uint8_t* p) { return *(const T*)p; }",
        "out[0] = f<float>(w);",
        _SPACE,
    ),
    "function_pointer": ("inline int f(int a) { return a; }", "int (*p)(int) = f; out[0] = p(1);", "function"),
    "device_to_thread": (
        "inline uint f(thread const uint8_t* p) { return p[0]; }",
        "out[0] = f(w);",
        "no matching function",
    ),
    "thread_to_device": (
        "inline float f(device const float* p) { return p[0]; }",
        "float a[2] = {0, 1}; out[0] = f(a);",
        "no matching function",
    ),
    "constant_to_device": (
        "constant float t[2] = {1, 2}; inline float f(device const float* p) { return p[0]; }",
        "out[0] = f(t);",
        "no matching function",
    ),
    "threadgroup_to_device": (
        "inline float f(device const float* p) { return p[0]; }",
        "threadgroup float s[4]; s[0] = 1.0f; out[0] = f(s);",
        "no matching function",
    ),
    "small_input_to_device": (
        "inline float f(device const float* p) { return p[0]; }",
        "out[0] = f(few);",
        "no matching function",
    ),
    "space_in_template": (
        "template <typename T> inline float f(device T* p) { thread T* q = p; return q[0]; }",
        "out[0] = f(out);",
        "cannot initialize a variable",
    ),
    "cast_between_spaces": ("", "out[0] = *(thread const float*)w;", "address space"),
    "temporary_to_thread": (
        "struct s { uint n; };\n"
        "inline s make() { s x = {1}; return x; }\n"
        "inline uint f(thread const s& x) { return x.n; }",
        "out[0] = f(make());",
        "no matching function",
    ),
    "method": ("struct s { uint n; uint get() const { return n; } };", "", "the method's own address space"),
    # Variables
    "table": ("uint8_t t[2] = {1, 2};", "out[0] = t[w[0] & 1];", "program scope variable"),
    "const_table": ("const uint8_t t[2] = {1, 2};", "out[0] = t[w[0] & 1];", "program scope variable"),
    "static_table": ("static const uint8_t t[2] = {1, 2};", "out[0] = t[w[0] & 1];", "program scope variable"),
    "write_input": ("", "w[0] = 1;", "read-only"),
    "write_table": ("constant float t[2] = {1, 2};", "t[0] = 2.0f;", "read-only"),
    "static_local": ("", "static int n = 0; out[0] = float(n++);", "static"),
    "static_constant_local": ("", "static constant float t[2] = {1, 2}; out[0] = t[w[0] & 1];", "static local"),
    "threadgroup_in_function": (
        "inline float f(float x) { threadgroup float s[4]; s[0] = x; return s[0]; }",
        "out[0] = f(1.0f);",
        "non-kernel function variable",
    ),
    "threadgroup_in_block": ("", "if (w[0]) { threadgroup float s[4]; s[0] = 1.0f; }", "outermost scope of a kernel"),
    "threadgroup_with_value": ("", "threadgroup float s[2] = {0, 0}; out[0] = s[0];", "cannot have an initializer"),
    "threadgroup_field": ("struct s { threadgroup float x[4]; };", "", "address space"),
    "variable_length": ("", "int n = w[0]; float a[n]; a[0] = 1.0f; out[0] = a[0];", "array size is not a constant"),
    "not_initialised": ("", "float a; out[0] = a + float(w[0]);", "uninitialized"),
    # Types and conversions
    "double": ("", "double d = w[0]; out[0] = float(d);", "double"),
    "double_literal": ("", "out[0] = w[0] * 1.5;", "double"),
    "double_in_template": (
        "template <typename T> inline T f(T x) { return T(double(x)); }",
        "out[0] = f(1.0f);",
        "double",
    ),
    "float_to_half": ("", "float a = w[0]; half h = a; out[0] = h;", _CONVERSION),
    "float_to_half_in_template": (
        "template <typename T> inline T f(float x) { return x; }",
        "out[0] = f<half>(1.5f);",
        _CONVERSION,
    ),
    "float_to_bfloat": ("", "float a = w[0]; bfloat16_t b = a; out[0] = float(b);", _CONVERSION),
    "float_to_int": ("", "float a = w[0]; int i = a; out[0] = float(i);", _CONVERSION),
    "int_to_byte": ("", "int a = w[0] + 300; uint8_t b = a; out[0] = b;", _CONVERSION),
    "long_to_int": ("", "size_t a = w[0]; uint b = a; out[0] = float(b);", _CONVERSION),
    "int_to_float": ("inline float f(int x) { return x; }", "out[0] = f(w[0]);", _CONVERSION),
    "braces": ("", "float a = w[0]; half h{a}; out[0] = h;", "narrowed"),
    "signs_compared": ("", "int n = w[0]; if (thread_position_in_grid.x < n) out[0] = 1.0f;", "different signs"),
    "minimum_of_two_types": ("", "int a = w[0]; uint b = 3; out[0] = float(min(a, b));", _CONVERSION),
    "maximum_of_half_and_float": ("", "half a = half(1.0f); out[0] = max(a, 1.0f);", "no matching function"),
    "clamp_of_two_types": ("", "out[0] = clamp(float(w[0]), 0, 1);", "no matching function"),
    "bits_of_another_size": ("", "out[0] = as_type<float>(w[0]);", "as_type keeps the size"),
    "vector_to_vector": ("", "float4 a = float4(1.0f); half4 b = a; out[0] = b.x;", "no viable conversion"),
    "vector_cast": ("", "float4 a = float4(1.0f); half4 b = (half4)a; out[0] = b.x;", "C-style cast"),
    "vectors_of_two_types": ("", "float4 a = float4(1.0f) * half4(half(1.0f)); out[0] = a.x;", "invalid operands"),
    "vector_times_scalar": ("", "half4 a = half4(half(1.0f)) * 2.0f; out[0] = a.x;", "invalid operands"),
    "vector_of_too_few": ("", "float4 a = float4(1.0f, 2.0f, 3.0f); out[0] = a.x;", "no matching"),
    "vector_without_z": ("", "float2 a = float2(1.0f); out[0] = a.z;", "no member named 'z'"),
    "popcount_of_float": ("", "out[0] = popcount(1.0f);", "no matching function"),
    "square_root_of_int": ("", "int a = w[0]; out[0] = sqrt(a);", _CONVERSION),
    "atomic_of_eight_bytes": ("", "threadgroup atomic<ulong> a; threadgroup auto* p = &a; (void)p;", "four bytes"),
    "atomic_assigned": ("", "threadgroup atomic<float> a; a = 1.0f;", "no viable overloaded '='"),
    "matrix_without_include": ("", "simdgroup_float8x8 m; (void)m;", "unknown type name"),
    # The language
    "recursion": (
        "inline int f(int n) { return n < 2 ? 1 : n * f(n - 1); }",
        "out[0] = float(f(w[0]));",
        "calls itself",
    ),
    "recursion_of_two": (
        "inline int g(int n); inline int f(int n) { return g(n - 1); } inline int g(int n) { return f(n); }",
        "out[0] = float(f(w[0]));",
        "calls itself",
    ),
    "recursion_in_template": (
        "template <typename T> inline T f(T n) { return n < 2 ? n : f(n - 1); }",
        "out[0] = float(f(int(w[0])));",
        "calls itself",
    ),
    "goto": ("", "if (w[0]) goto end; out[0] = 1.0f; end:;", "goto"),
    "lambda": ("", "auto f = [](float x) { return x; }; out[0] = f(1.0f);", "lambda"),
    "new": ("", "thread float* p = new float[4]; out[0] = p[0];", "new"),
    "virtual": ("struct s { virtual uint f() const thread { return 1; } };", "", "virtual"),
    "try": ("", "try { out[0] = 1.0f; } catch (...) {}", "exceptions"),
    "throw": ("inline void f() { throw 1; }", "", "exceptions"),
    "derived class": (
        "struct one { float v; };\nstruct other : one {};",
        "other o; o.v = 1.0f; out[0] = o.v;",
        "a derived class",
    ),
    "typeid": ("", "out[0] = typeid(float) == typeid(half);", "typeid"),
    "assembly": ("", 'asm("nop");', "asm"),
    "standard_library": ("", "out[0] = std::exp(1.0f);", "std"),
    "builtin": ("", "out[0] = float(__builtin_popcount(w[0]));", "__builtin_popcount"),
    "opencl_function": ("", "out[0] = float(get_global_id(0));", "get_global_id"),
    "attribute_in_helper": ("inline uint f() { return thread_position_in_grid.x; }", "", "undeclared identifier"),
    "macro_of_mlx": ("#define instantiate_kernel(x) x", "", "macro redefined"),
    "hides_metal": ("inline float dot(float a, float b) { return a * b; }", "", "hides Metal's function"),
    "word_of_metal": ("", "uint vertex = w[0]; out[0] = float(vertex);", "a word of Metal's"),
    "not_ascii": ("// w ≥ 0", "", "not ASCII"),
}

# The same, with the text outside our namespace.
OUTSIDE: dict[str, tuple[str, str, str]] = {
    "function": ("inline uint f() { return 1; }", "", _OUTSIDE),
    "directive": ("namespace mlx_dequant {} using namespace mlx_dequant;", "", _OUTSIDE),
    "other_namespace": ("namespace metal { inline uint f() { return 1; } }", "", _OUTSIDE),
    "type_of_mlx": ("typedef float float16_t;", "", "redefinition"),
    "template_of_mlx": ("struct WorkPerThread { uint n; };", "", "redefinition"),
    "host_header": ("#include <cmath>", "", "file not found"),
    "matrix_of_16": (
        _MATRIX,
        "simdgroup_matrix<float, 16, 16> m; (void)m;",
        "matrices are 8 x 8",
    ),
    "matrix_of_int": (_MATRIX, "simdgroup_matrix<int, 8, 8> m; (void)m;", "matrices hold float, half or bfloat"),
    "matrix_loaded_from_another_type": (
        _MATRIX,
        "threadgroup float s[64]; s[0] = 0.0f; simdgroup_half8x8 m; simdgroup_load(m, s, 8);",
        "no matching function",
    ),
    "matrix_stored_as_another_type": (
        _MATRIX,
        "threadgroup half s[64]; simdgroup_float8x8 m; simdgroup_load(m, out, 8); simdgroup_store(m, s, 8);",
        "no matching function",
    ),
    "matrix_loaded_from_constant": (
        _MATRIX,
        "simdgroup_float8x8 m; simdgroup_load(m, few, 8);",
        "no matching function",
    ),
    "matrix_stored_to_thread": (
        _MATRIX,
        "float a[64]; simdgroup_float8x8 m; simdgroup_load(m, out, 8); simdgroup_store(m, a, 8);",
        "no matching function",
    ),
    "matrix_to_another_type": (
        _MATRIX,
        "simdgroup_float8x8 a; simdgroup_half8x8 b; simdgroup_load(a, out, 8); b = a; (void)b;",
        "no viable overloaded '='",
    ),
    "matrix_that_is_const": (
        _MATRIX,
        "const simdgroup_float8x8 a(1.0f); simdgroup_store(a, out, 8);",
        "no matching function",
    ),
    "matrix_times_scalar": (
        _MATRIX,
        "simdgroup_float8x8 a; simdgroup_load(a, out, 8); simdgroup_multiply(a, a, 2.0f);",
        "no matching function",
    ),
    "matrix_element": (_MATRIX, "simdgroup_float8x8 a; simdgroup_load(a, out, 8); out[0] = a[0];", "subscript"),
}
