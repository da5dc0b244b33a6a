// The emulated cublasLt against plain loops: all transposes and types, biases, accumulation; and what it refuses.
#include <cublasLt.h>

#include "cuda/emulator/trial.hpp"
#include <cmath>

using namespace trial;

namespace {

struct library {
  cublasLtHandle_t handle = nullptr;
  library() { REQUIRE(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS); }
  library(library const&) = delete;
  library& operator=(library const&) = delete;
  ~library() { cublasLtDestroy(handle); }
};

/// Everything that a product is asked with; a test changes a part of it.
struct question {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType_t scale = CUDA_R_32F, in = CUDA_R_32F, out = CUDA_R_32F;
  bool transpose_a = false, transpose_b = false;
  std::uint64_t m = 37, n = 21, k = 50;
  std::int64_t padding = 3;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void const* bias = nullptr;
  int bias_type = -1;
  std::uint32_t alignment = 4;
  std::uint64_t work_space = 1 << 16;
};

/// Descriptors of a question.
class asked {
 public:
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;

  explicit asked(question const& q) : q_{q} {
    made(cublasLtMatmulDescCreate(&operation, q.compute, q.scale));
    set(CUBLASLT_MATMUL_DESC_TRANSA, std::int32_t{q.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N});
    set(CUBLASLT_MATMUL_DESC_TRANSB, std::int32_t{q.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N});
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, q.epilogue);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, q.bias);
    if (q.bias_type != -1)
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{q.bias_type});
    a = layout(q.in, q.transpose_a ? q.k : q.m, q.transpose_a ? q.m : q.k);
    b = layout(q.in, q.transpose_b ? q.n : q.k, q.transpose_b ? q.k : q.n);
    d = layout(q.out, q.m, q.n);
  }
  asked(asked const&) = delete;
  asked& operator=(asked const&) = delete;
  ~asked() {
    for (auto* x : {a, b, d}) cublasLtMatrixLayoutDestroy(x);
    cublasLtMatmulDescDestroy(operation);
  }
  cublasStatus_t choose(library const& l, cublasLtMatmulAlgo_t& to) const {
    cublasLtMatmulPreference_t p = nullptr;
    made(cublasLtMatmulPreferenceCreate(&p));
    made(
        cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &q_.work_space, 8));
    for (auto const what :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      made(cublasLtMatmulPreferenceSetAttribute(p, what, &q_.alignment, 4));
    cublasLtMatmulHeuristicResult_t best{};
    int count = -1;
    auto const status = cublasLtMatmulAlgoGetHeuristic(l.handle, operation, a, b, d, d, p, 1, &best, &count);
    CHECK(count == (status == CUBLAS_STATUS_SUCCESS ? 1 : 0));
    cublasLtMatmulPreferenceDestroy(p);
    to = best.algo;
    return status;
  }

 private:
  static void made(cublasStatus_t s) { REQUIRE(s == CUBLAS_STATUS_SUCCESS); }
  template <class V>
  void set(cublasLtMatmulDescAttributes_t what, V const& v) {
    made(cublasLtMatmulDescSetAttribute(operation, what, &v, sizeof v));
  }
  cublasLtMatrixLayout_t layout(cudaDataType_t type, std::uint64_t rows, std::uint64_t columns) const {
    cublasLtMatrixLayout_t l = nullptr;
    made(cublasLtMatrixLayoutCreate(&l, type, rows, columns, static_cast<std::int64_t>(rows) + q_.padding));
    return l;
  }
  question q_;
};

template <class V>
constexpr cudaDataType_t type_of = std::is_same_v<V, double>  ? CUDA_R_64F
                                   : std::is_same_v<V, float> ? CUDA_R_32F
                                                              : CUDA_R_16BF;
double wide(__nv_bfloat16 v) {
  return static_cast<double>(__bfloat162float(v));
}
double wide(float v) {
  return static_cast<double>(v);
}
double wide(double v) {
  return v;
}
template <class V>
V narrow(double v) {
  if constexpr (std::is_same_v<V, __nv_bfloat16>)
    return __float2bfloat16_rn(static_cast<float>(v));
  else
    return static_cast<V>(v);
}
template <class V>
std::vector<V> some(std::size_t n, std::uint64_t seed) {
  emulator::numbers numbers{seed};
  std::vector<V> v(n);
  for (auto& x : v) x = narrow<V>(static_cast<double>(numbers.below(2001)) / 1000 - 1);
  return v;
}

/// d = alpha op(a) op(b) + beta d + bias, on the card and in loops.
template <class X, class Y>
void check_product(question q, double alpha, double beta, double tolerance) {
  q.in = type_of<X>;
  q.out = type_of<Y>;
  q.alignment = sizeof(X);
  auto const rows_a = (q.transpose_a ? q.k : q.m) + static_cast<std::uint64_t>(q.padding);
  auto const rows_b = (q.transpose_b ? q.n : q.k) + static_cast<std::uint64_t>(q.padding);
  auto const rows_d = q.m + static_cast<std::uint64_t>(q.padding);
  auto const a = some<X>(rows_a * (q.transpose_a ? q.m : q.k), 1),
             b = some<X>(rows_b * (q.transpose_b ? q.k : q.n), 2);
  auto const before = some<Y>(rows_d * q.n, 3), bias = some<Y>(q.m, 4);
  stream const s;
  array<X> const da{s, a}, db{s, b};
  array<Y> const dd{s, before}, d_bias{s, bias};
  array<char> const work{s, 1 << 16};
  bool const with_bias = q.epilogue == CUBLASLT_EPILOGUE_BIAS;
  q.bias = with_bias ? d_bias.data() : nullptr;
  library const l;
  cublasLtMatmulAlgo_t algorithm{};
  {
    asked const now{q};
    REQUIRE(now.choose(l, algorithm) == CUBLAS_STATUS_SUCCESS);
    auto const multiply = [&](auto one, auto kept) {
      return cublasLtMatmul(l.handle, now.operation, &one, da.data(), now.a, db.data(), now.b, &kept,
                            dd.data(), now.d, dd.data(), now.d, &algorithm, work.data(), 1 << 16, s);
    };
    REQUIRE((q.scale == CUDA_R_64F
                 ? multiply(alpha, beta)
                 : multiply(static_cast<float>(alpha), static_cast<float>(beta))) == CUBLAS_STATUS_SUCCESS);
  }  // descriptors may go before the product is done
  auto const got = dd.read();
  for (std::uint64_t j = 0; j < q.n; ++j)
    for (std::uint64_t i = 0; i < rows_d; ++i) {
      auto const at = i + j * rows_d;
      if (i >= q.m) {  // between the columns nothing changes
        REQUIRE(wide(got[at]) == wide(before[at]));
        continue;
      }
      double sum = 0;
      for (std::uint64_t k = 0; k < q.k; ++k)
        sum += wide(q.transpose_a ? a[k + i * rows_a] : a[i + k * rows_a]) *
               wide(q.transpose_b ? b[j + k * rows_b] : b[k + j * rows_b]);
      auto const wanted = alpha * sum + beta * wide(before[at]) + (with_bias ? wide(bias[i]) : 0);
      INFO("row " << i << ", column " << j << ": " << wide(got[at]) << ", wanted " << wanted);
      REQUIRE(std::abs(wide(got[at]) - wanted) <= tolerance * (1 + std::abs(wanted)));
    }
  SUCCEED();
}

cublasStatus_t choice(question const& q) {
  library const l;
  cublasLtMatmulAlgo_t algorithm{};
  return asked{q}.choose(l, algorithm);
}

}  // namespace

TEST_CASE("emulator: cublasLt's products in all transposes and types") {
  question q;
  q.transpose_a = GENERATE(false, true);
  q.transpose_b = GENERATE(false, true);
  check_product<float, float>(q, 1, 0, 1e-5);
  check_product<float, float>(q, 0.5, 2, 1e-5);
  check_product<__nv_bfloat16, __nv_bfloat16>(q, 1, 1, 0x1p-8);
  check_product<__nv_bfloat16, float>(q, 1, 0, 1e-5);
  q.epilogue = CUBLASLT_EPILOGUE_BIAS;
  check_product<float, float>(q, 1, 0, 1e-5);
  check_product<__nv_bfloat16, __nv_bfloat16>(q, 1, 0, 0x1p-8);
  check_product<__nv_bfloat16, float>(q, 1, 1, 1e-5);
  q.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  check_product<float, float>(q, 1, 0, 1e-2);
  q.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  q.compute = CUBLAS_COMPUTE_64F;
  q.scale = CUDA_R_64F;
  check_product<double, double>(q, 2, 1, 1e-13);
}

TEST_CASE("emulator: products larger than a strip, and of one row or column") {
  question q;
  q.m = 700;
  q.n = 3;
  q.k = 300;
  check_product<float, float>(q, 1, 0, 1e-4);
  q.m = q.n = 1;
  check_product<float, float>(q, 1, 0, 1e-4);
  q.m = 5;
  q.k = 1;
  check_product<float, float>(q, 1, 0, 1e-4);
}

TEST_CASE("emulator: TF32 keeps ten bits of mantissa") {
  question const q{.compute = CUBLAS_COMPUTE_32F_FAST_TF32, .m = 1, .n = 1, .k = 1, .padding = 0};
  auto const product = [&](float x) {
    stream const s;
    array<float> const a{s, std::vector<float>{x}}, b{s, std::vector<float>{1}}, d{s, 1};
    library const l;
    asked const now{q};
    float const one = 1, none = 0;
    REQUIRE(cublasLtMatmul(l.handle, now.operation, &one, a.data(), now.a, b.data(), now.b, &none, d.data(),
                           now.d, d.data(), now.d, nullptr, nullptr, 0, s) == CUBLAS_STATUS_SUCCESS);
    return d.read()[0];
  };
  CHECK(product(1 + 0x1p-10f) == 1 + 0x1p-10f);
  CHECK(product(1 + 0x1p-12f) == 1);
  CHECK(product(1 + 0x1.8p-11f) == 1 + 0x1p-10f);
}

TEST_CASE("emulator: cublasLt refuses what the library does not promise") {
  CHECK(choice({}) == CUBLAS_STATUS_SUCCESS);
  CHECK(choice({.m = 0}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(choice({.padding = -1}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(choice({.scale = CUDA_R_64F}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.compute = CUBLAS_COMPUTE_64F}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.out = CUDA_R_16BF}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.in = CUDA_R_16BF}) == CUBLAS_STATUS_SUCCESS);
  CHECK(choice({.compute = CUBLAS_COMPUTE_32F_FAST_TF32, .in = CUDA_R_16BF}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.in = CUDA_R_16F, .out = CUDA_R_16F}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.epilogue = CUBLASLT_EPILOGUE_GELU}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(choice({.epilogue = CUBLASLT_EPILOGUE_BIAS}) == CUBLAS_STATUS_NOT_SUPPORTED);  // without a bias
  stream const s;
  array<float> const bias{s, 37};
  question with{.epilogue = CUBLASLT_EPILOGUE_BIAS, .bias = bias.data()};
  CHECK(choice(with) == CUBLAS_STATUS_SUCCESS);
  with.bias_type = CUDA_R_16BF;
  CHECK(choice(with) == CUBLAS_STATUS_NOT_SUPPORTED);
  with = {.compute = CUBLAS_COMPUTE_64F, .scale = CUDA_R_64F, .in = CUDA_R_64F, .out = CUDA_R_64F};
  CHECK(choice(with) == CUBLAS_STATUS_SUCCESS);
  with.epilogue = CUBLASLT_EPILOGUE_BIAS;
  with.bias = bias.data();
  CHECK(choice(with) == CUBLAS_STATUS_NOT_SUPPORTED);

  // Matrices that do not fit together.
  library const l;
  asked const right{{}}, other{{.k = 51}};
  float const one = 1, none = 0;
  CHECK(cublasLtMatmul(l.handle, right.operation, &one, bias.data(), right.a, bias.data(), other.b, &none,
                       bias.data(), right.d, bias.data(), right.d, nullptr, nullptr, 0,
                       s) == CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("emulator: cublasLt holds the caller to what the heuristic was told") {
  stream const s;
  array<float> const a{s, 2000}, b{s, 2000}, d{s, 2000};
  array<char> const work{s, 1 << 16};
  library const l;
  question const q{.alignment = 16};
  asked const now{q};
  cublasLtMatmulAlgo_t algorithm{};
  REQUIRE(now.choose(l, algorithm) == CUBLAS_STATUS_SUCCESS);
  auto const multiply = [&](float const* from, std::size_t work_space) {
    float const one = 1, none = 0;
    return cublasLtMatmul(l.handle, now.operation, &one, from, now.a, b.data(), now.b, &none, d.data(), now.d,
                          d.data(), now.d, &algorithm, work.data(), work_space, s);
  };
  CHECK(multiply(a.data() + 1, 1 << 16) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(multiply(a.data(), 100) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(multiply(a.data(), 1 << 16) == CUBLAS_STATUS_SUCCESS);
  std::vector<float> host(2000);
  ends_badly([&] { multiply(host.data(), 1 << 16); }, {"A does not lie in one allocation"});
  ends_badly([&] { multiply(a.data() + 4, 1 << 16); }, {});
  s.wait();
}

TEST_CASE("emulator: bfloat16 as CUDA rounds it") {
  auto const bits = [](float v) { return __bfloat16_as_ushort(__float2bfloat16_rn(v)); };
  CHECK(bits(1.0f) == 0x3f80);
  CHECK(bits(1.0f + 0x1p-8f) == 0x3f80);  // ties to even
  CHECK(bits(1.0f + 0x1.8p-7f) == 0x3f82);
  CHECK(bits(1.0f + 0x1.01p-8f) == 0x3f81);
  CHECK(bits(-INFINITY) == 0xff80);
  CHECK(bits(3.4e38f) == 0x7f80);
  CHECK(bits(NAN) == 0x7fff);
  auto const pair = __floats2bfloat162_rn(1, -2);
  CHECK(__low2float(pair) == 1);
  CHECK(__high2float(pair) == -2);
}
