// What can go wrong on a GPU, in words.
#pragma once
#include <yoke/core/expects.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace yoke::cuda {

/// The driver, the card or a library of CUDA's refused. what() says what was asked for and the library's own words.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// This machine has no card that the driver can use.
struct no_device : error {
  using error::error;
};

/// Throws error "what: CUDA's words" unless `status` is success.
inline void check(cudaError_t status, char const* what) {
  if (status != cudaSuccess) [[unlikely]] {
    cudaGetLastError();  // the next call is not blamed for this one
    throw error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}
inline void check(cublasStatus_t status, char const* what) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw error(std::string(what) + ": " + cublasLtGetStatusString(status));
}

}  // namespace yoke::cuda
