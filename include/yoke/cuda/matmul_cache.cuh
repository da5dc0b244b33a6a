// cublasLt's matrix products, kept: descriptors and the algorithm for each shape, so that a product in steady state is
// a look-up and a call.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/random.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/cuda/memory.cuh>

#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>

namespace yoke::cuda::detail {

template <class T>
inline constexpr cudaDataType_t number_type = std::is_same_v<T, double> ? CUDA_R_64F
                                              : std::is_same_v<T, bf16> ? CUDA_R_16BF
                                                                        : CUDA_R_32F;

/// A row-major matrix as it lies in memory, rows `stride` elements apart; `transposed` when its transpose is meant.
struct operand {
  extent_t rows = 0, columns = 0, stride = 0;
  bool transposed = false;
  extent_t alignment = 0;  // of every row, in bytes

  friend bool operator==(operand const&, operand const&) = default;
};

/// The largest power of two, up to 256, that divides an address and the bytes from row to row.
inline extent_t alignment_of(void const* p, extent_t row_bytes = 256) {
  auto const bits = static_cast<extent_t>(reinterpret_cast<std::uintptr_t>(p)) | row_bytes | 256;
  return bits & -bits;
}

/// Everything that an algorithm is chosen for: d (m, n) = or += op(a) (m, k) op(b) (k, n) + bias (n).
struct product {
  operand a, b, d;
  cudaDataType_t in{}, out{};
  bool accumulate = false, bias = false;
  bool tf32 = false;
  extent_t bias_alignment = 0;

  friend bool operator==(product const&, product const&) = default;
};

struct product_hash {
  std::size_t operator()(product const& p) const noexcept {
    std::uint64_t h = 0;
    for (auto const* o : {&p.a, &p.b, &p.d})
      for (auto v : {o->rows, o->columns, o->stride, o->alignment + extent_t{o->transposed}})
        h = mix(h, static_cast<std::uint64_t>(v));
    for (auto v : {static_cast<extent_t>(p.in), static_cast<extent_t>(p.out), p.bias_alignment,
                   extent_t{p.accumulate} + 2 * extent_t{p.bias} + 4 * extent_t{p.tf32}})
      h = mix(h, static_cast<std::uint64_t>(v));
    return h;
  }
};

/// "(128, 64) bf16 transposed, rows aligned to 128 bytes, times (128, 96) bf16, …, into (64, 96) float, …"
inline std::string in_words(product const& p) {
  auto const matrix = [](operand const& o, cudaDataType_t type) {
    return "(" + std::to_string(o.rows) + ", " + std::to_string(o.columns) + ") " +
           (type == CUDA_R_64F    ? "double"
            : type == CUDA_R_16BF ? "bf16"
                                  : "float") +
           (o.transposed ? " transposed" : "") + ", rows aligned to " + std::to_string(o.alignment) +
           " bytes";
  };
  return matrix(p.a, p.in) + ", times " + matrix(p.b, p.in) + ", into " + matrix(p.d, p.out) +
         (p.bias ? ", with a bias" : "") + (p.accumulate ? ", accumulated" : "");
}

struct destroy {
  void operator()(std::remove_pointer_t<cublasLtMatrixLayout_t>* p) const { cublasLtMatrixLayoutDestroy(p); }
  void operator()(std::remove_pointer_t<cublasLtMatmulDesc_t>* p) const { cublasLtMatmulDescDestroy(p); }
  void operator()(std::remove_pointer_t<cublasLtMatmulPreference_t>* p) const {
    cublasLtMatmulPreferenceDestroy(p);
  }
};
template <class Handle>
using owned = std::unique_ptr<std::remove_pointer_t<Handle>, destroy>;

/// The products of one context.
class matmul_cache {
 public:
  /// Keeps at most so many: captions of all lengths make another number of rows with every batch.
  explicit matmul_cache(std::size_t most = 4096) : most_{most} {}

  /// Throws error when cublasLt has no algorithm.
  void run(cublasLtHandle_t library, cudaStream_t stream, block const& work_space, product const& p,
           void const* a, void const* b, void const* bias, void* d) {
    auto found = entries_.find(p);
    if (found == entries_.end()) {
      if (entries_.size() == most_)
        entries_.clear();
      found = entries_.emplace(p, entry{library, work_space.size(), p, bias}).first;
    }
    found->second.run(library, stream, work_space, p, a, b, bias, d);
  }
  std::size_t size() const { return entries_.size(); }

 private:
  // cublasLt's matrices are column-major, and a row-major matrix read so is its transpose: what is asked of it is
  // d^T = op(b)^T op(a)^T, with b for its A, a for its B, and the bias along its D's rows.
  class entry {
   public:
    entry(cublasLtHandle_t library, std::size_t work_space, product const& p, void const* bias)
        : a_{layout(p.b, p.in)}, b_{layout(p.a, p.in)}, d_{layout(p.d, p.out)} {
      cublasLtMatmulDesc_t made = nullptr;
      auto const compute = p.in == CUDA_R_64F ? CUBLAS_COMPUTE_64F
                           : p.tf32           ? CUBLAS_COMPUTE_32F_FAST_TF32
                                              : CUBLAS_COMPUTE_32F;
      check(cublasLtMatmulDescCreate(&made, compute, p.in == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F),
            "cublasLtMatmulDescCreate");
      operation_.reset(made);
      set(CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
      set(CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
      if (p.bias)  // its alignment counts in the choice
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
      choose(library, work_space, p);
    }

    void run(cublasLtHandle_t library, cudaStream_t stream, block const& work_space, product const& p,
             void const* a, void const* b, void const* bias, void* d) {
      if (p.bias)
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
      auto const multiply = [&](auto one, auto kept) {
        check(cublasLtMatmul(library, operation_.get(), &one, b, a_.get(), a, b_.get(), &kept, d, d_.get(), d,
                             d_.get(), &algorithm_, work_space.data(), work_space.size(), stream),
              "cublasLtMatmul");
      };
      if (p.in == CUDA_R_64F)
        multiply(1.0, p.accumulate ? 1.0 : 0.0);
      else
        multiply(1.0f, p.accumulate ? 1.0f : 0.0f);
    }

   private:
    static owned<cublasLtMatrixLayout_t> layout(operand const& o, cudaDataType_t type) {
      cublasLtMatrixLayout_t made = nullptr;
      check(cublasLtMatrixLayoutCreate(&made, type, static_cast<std::uint64_t>(o.columns),
                                       static_cast<std::uint64_t>(o.rows), o.stride),
            "cublasLtMatrixLayoutCreate");
      return owned<cublasLtMatrixLayout_t>{made};
    }
    template <class V>
    void set(cublasLtMatmulDescAttributes_t what, V const& value) {
      check(cublasLtMatmulDescSetAttribute(operation_.get(), what, &value, sizeof value),
            "cublasLtMatmulDescSetAttribute");
    }

    void choose(cublasLtHandle_t library, std::size_t work_space, product const& p) {
      cublasLtMatmulPreference_t made = nullptr;
      check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
      owned<cublasLtMatmulPreference_t> const preference{made};
      auto const prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        check(cublasLtMatmulPreferenceSetAttribute(made, what, &value, sizeof value),
              "cublasLtMatmulPreferenceSetAttribute");
      };
      prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{work_space});
      // Rows of an odd number of bf16 start anywhere, even where the first is aligned.
      auto const aligned = [&](cublasLtMatmulPreferenceAttributes_t what, operand const& o) {
        prefer(what, static_cast<std::uint32_t>(o.alignment));
      };
      aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.b);
      aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.a);
      aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.d);
      aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.d);
      // Sums that are split over blocks meet in float: rounded once, as those of one block are.
      if (p.out == CUDA_R_16BF)
        prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
               std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});

      cublasLtMatmulHeuristicResult_t best{};
      int count = 0;
      auto const status = cublasLtMatmulAlgoGetHeuristic(library, operation_.get(), a_.get(), b_.get(),
                                                         d_.get(), d_.get(), made, 1, &best, &count);
      if (status != CUBLAS_STATUS_SUCCESS || count == 0)
        throw error("cublasLt has no algorithm for the product of " + in_words(p) + ", in " +
                    std::to_string(work_space) + " bytes of work space: " +
                    (status == CUBLAS_STATUS_SUCCESS ? "it offers none" : cublasLtGetStatusString(status)));
      check(best.state, "an algorithm of cublasLt's");
      algorithm_ = best.algo;
    }

    owned<cublasLtMatmulDesc_t> operation_;
    owned<cublasLtMatrixLayout_t> a_, b_, d_;
    cublasLtMatmulAlgo_t algorithm_{};
  };

  std::size_t most_;
  std::unordered_map<product, entry, product_hash> entries_;
};

}  // namespace yoke::cuda::detail
