// The part of cublasLt that multiplies matrices, emulated and strict: what the library does not promise is refused,
// and so is what contradicts what the heuristic was told.
#pragma once
#include <cuda_runtime.h>

#include "emulator/product.hpp"
#include <array>

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_ARCH_MISMATCH = 8,
  CUBLAS_STATUS_MAPPING_ERROR = 11,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_INTERNAL_ERROR = 14,
  CUBLAS_STATUS_NOT_SUPPORTED = 15,
  CUBLAS_STATUS_LICENSE_ERROR = 16
};
enum cublasComputeType_t {
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_64F = 70,
  CUBLAS_COMPUTE_32F_FAST_TF32 = 77
};
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_OP_C = 2 };
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_TRANSA = 3,
  CUBLASLT_MATMUL_DESC_TRANSB = 4,
  CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12,
  CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE = 26
};
enum cublasLtEpilogue_t {
  CUBLASLT_EPILOGUE_DEFAULT = 1,
  CUBLASLT_EPILOGUE_RELU = 2,
  CUBLASLT_EPILOGUE_BIAS = 4,
  CUBLASLT_EPILOGUE_GELU = 32
};
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};
enum cublasLtReductionScheme_t {
  CUBLASLT_REDUCTION_SCHEME_NONE = 0,
  CUBLASLT_REDUCTION_SCHEME_INPLACE = 1,
  CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2,
  CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE = 4,
  CUBLASLT_REDUCTION_SCHEME_MASK = 7
};

struct cublasLtContext {
  int device;
};
using cublasLtHandle_t = cublasLtContext*;
struct cublasLtMatrixLayoutOpaque_t {
  emulator::matrix m;
};
using cublasLtMatrixLayout_t = cublasLtMatrixLayoutOpaque_t*;
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute{};
  cudaDataType_t scale{};
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void const* bias = nullptr;
  std::int32_t bias_type = -1;  // that of D
};
using cublasLtMatmulDesc_t = cublasLtMatmulDescOpaque_t*;
struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t work_space = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::array<std::uint32_t, 4> alignments{256, 256, 256, 256};  // of A, B, C, D
};
using cublasLtMatmulPreference_t = cublasLtMatmulPreferenceOpaque_t*;
struct cublasLtMatmulAlgo_t {
  std::uint64_t data[8];  // alignments of A, B, C, D and of the bias; bytes of work space; that it is one
};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  std::size_t workspaceSize;
  cublasStatus_t state;
  float wavesCount;
  int reserved[4];
};

inline char const* cublasLtGetStatusName(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
      return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR:
      return "CUBLAS_STATUS_LICENSE_ERROR";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}
inline char const* cublasLtGetStatusString(cublasStatus_t s) {
  return cublasLtGetStatusName(s);
}

namespace emulator {

/// Sets `to` from an attribute's buffer, which must be of its size.
template <class V>
cublasStatus_t set_from(V& to, void const* from, std::size_t bytes) {
  if (from == nullptr || bytes != sizeof(V))
    return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

inline bool well_formed(matrix const& m) {
  return m.rows > 0 && m.columns > 0 && m.ld >= static_cast<std::int64_t>(m.rows);
}
/// Whether cublasLt multiplies such matrices so.
inline cublasStatus_t supported(cublasLtMatmulDescOpaque_t const& o, matrix const& a, matrix const& b,
                                matrix const& c, matrix const& d) {
  bool const ta = o.transpose_a != CUBLAS_OP_N, tb = o.transpose_b != CUBLAS_OP_N;
  for (auto const* m : {&a, &b, &c, &d})
    if (!well_formed(*m))
      return CUBLAS_STATUS_INVALID_VALUE;
  if ((ta ? a.columns : a.rows) != d.rows || (tb ? b.rows : b.columns) != d.columns ||
      (ta ? a.rows : a.columns) != (tb ? b.columns : b.rows) || c.rows != d.rows || c.columns != d.columns)
    return CUBLAS_STATUS_INVALID_VALUE;
  bool const with_bias = o.epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (!with_bias && o.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (a.type != b.type || c.type != d.type)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (with_bias && (o.bias == nullptr || (o.bias_type != -1 && o.bias_type != d.type)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  bool good = false;
  if (o.compute == CUBLAS_COMPUTE_64F)
    good = o.scale == CUDA_R_64F && a.type == CUDA_R_64F && d.type == CUDA_R_64F && !with_bias;
  else if (o.scale == CUDA_R_32F && a.type == CUDA_R_32F)
    good = d.type == CUDA_R_32F;
  else if (o.scale == CUDA_R_32F && a.type == CUDA_R_16BF)
    good = o.compute == CUBLAS_COMPUTE_32F && (d.type == CUDA_R_16BF || d.type == CUDA_R_32F);
  return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
/// The largest power of two, at most 256, that divides an address.
inline std::uint64_t aligned_to(void const* p) {
  auto const bits = reinterpret_cast<std::uintptr_t>(p) | 256;
  return bits & (~bits + 1);
}
inline constexpr std::uint64_t is_algorithm = 0x796f6b65;

}  // namespace emulator

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (emulator::settings().devices == 0)
    return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext{emulator::current_device()};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
inline std::size_t cublasLtGetVersion() {
  return 130100;
}
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  *made = new cublasLtMatmulDescOpaque_t{.compute = compute, .scale = scale};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t o) {
  delete o;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t o,
                                                     cublasLtMatmulDescAttributes_t what, void const* from,
                                                     std::size_t bytes) {
  using emulator::set_from;
  switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set_from(o->transpose_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set_from(o->transpose_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set_from(o->epilogue, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set_from(o->bias, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set_from(o->bias_type, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      break;
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType type,
                                                 std::uint64_t rows, std::uint64_t columns, std::int64_t ld) {
  *made = new cublasLtMatrixLayoutOpaque_t{{type, rows, columns, ld}};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m) {
  delete m;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                           cublasLtMatmulPreferenceAttributes_t what,
                                                           void const* from, std::size_t bytes) {
  using emulator::set_from;
  switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set_from(p->work_space, from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set_from(p->reductions, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set_from(p->alignments[0], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set_from(p->alignments[1], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set_from(p->alignments[2], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set_from(p->alignments[3], from, bytes);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

/// One algorithm, which wants 4096 bytes of work space where it may have so much.
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t o,
                                                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                     cublasLtMatmulPreference_t preference, int wanted,
                                                     cublasLtMatmulHeuristicResult_t found[], int* count) {
  *count = 0;
  if (handle == nullptr || wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (auto const s = emulator::supported(*o, a->m, b->m, c->m, d->m); s != CUBLAS_STATUS_SUCCESS)
    return s;
  auto const& with = preference->alignments;
  std::uint64_t const need = preference->work_space < 4096 ? 0 : 4096;
  found[0] = {
      {{with[0], with[1], with[2], with[3], emulator::aligned_to(o->bias), need, emulator::is_algorithm, 0}},
      need,
      CUBLAS_STATUS_SUCCESS,
      1.0f,
      {}};
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t o, void const* alpha,
                                     void const* a, cublasLtMatrixLayout_t a_layout, void const* b,
                                     cublasLtMatrixLayout_t b_layout, void const* beta, void const* c,
                                     cublasLtMatrixLayout_t c_layout, void* d,
                                     cublasLtMatrixLayout_t d_layout, cublasLtMatmulAlgo_t const* algorithm,
                                     void* work_space, std::size_t work_space_bytes, cudaStream_t stream) {
  using namespace emulator;
  if (handle == nullptr || alpha == nullptr || beta == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (auto const s = supported(*o, a_layout->m, b_layout->m, c_layout->m, d_layout->m);
      s != CUBLAS_STATUS_SUCCESS)
    return s;
  bool const with_bias = o->epilogue == CUBLASLT_EPILOGUE_BIAS;
  std::size_t need = 0;
  if (algorithm != nullptr) {
    if (algorithm->data[6] != is_algorithm)
      return CUBLAS_STATUS_INVALID_VALUE;
    std::size_t i = 0;
    for (void const* p : {a, b, c, static_cast<void const*>(d), with_bias ? o->bias : nullptr})
      if (aligned_to(p) < algorithm->data[i++])
        return CUBLAS_STATUS_NOT_SUPPORTED;
    need = algorithm->data[5];
  }
  if (work_space_bytes < need)
    return CUBLAS_STATUS_INVALID_VALUE;
  guard const held{cards().lock};
  auto const demand = [](void const* p, std::size_t bytes, char const* what) {
    if (place_of(p, bytes) != place::device)
      fail(std::string("cublasLtMatmul: ") + what + " does not lie in one allocation of device memory");
  };
  demand(a, a_layout->m.bytes(), "A");
  demand(b, b_layout->m.bytes(), "B");
  demand(c, c_layout->m.bytes(), "C");
  demand(d, d_layout->m.bytes(), "D");
  if (with_bias)
    demand(o->bias, d_layout->m.rows * d_layout->m.element_size(), "the bias");
  if (need > 0)
    demand(work_space, need, "the work space");
  auto const scale = [o](void const* p) { return number(o->scale, p, 0); };
  product const p{.a = a_layout->m,
                  .b = b_layout->m,
                  .c = c_layout->m,
                  .d = d_layout->m,
                  .transpose_a = o->transpose_a != CUBLAS_OP_N,
                  .transpose_b = o->transpose_b != CUBLAS_OP_N,
                  .tf32 = o->compute == CUBLAS_COMPUTE_32F_FAST_TF32,
                  .alpha = scale(alpha),
                  .beta = scale(beta),
                  .a_at = a,
                  .b_at = b,
                  .c_at = c,
                  .bias = with_bias ? o->bias : nullptr,
                  .d_at = d};
  auto const status = emulator::enqueue(*queue_of(stream), kind::kernel, [p, work_space, need] {
    if (need > 0)
      std::memset(work_space, garbage, need);
    p.d.type == CUDA_R_64F ? multiply<double>(p) : multiply<float>(p);
    return true;
  });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
