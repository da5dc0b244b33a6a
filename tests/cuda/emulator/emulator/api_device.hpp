// The runtime's functions on devices, and launches of kernels.
#pragma once
#include "api_memory.hpp"
#include "block.hpp"
#include <tuple>
#include <type_traits>

inline cudaError_t cudaGetLastError() {
  return std::exchange(emulator::last_error(), cudaSuccess);
}
inline cudaError_t cudaPeekAtLastError() {
  return emulator::last_error();
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulator::settings().devices;
  return emulator::result(emulator::have_device());
}
inline cudaError_t cudaSetDevice(int device) {
  using namespace emulator;
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (device < 0 || device >= settings().devices)
    return result(cudaErrorInvalidDevice);
  current_device() = device;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulator::current_device();
  return emulator::result(emulator::have_device());
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  using namespace emulator;
  if (device < 0 || device >= settings().devices)
    return result(cudaErrorInvalidDevice);
  *p = {.name = "an emulated card",
        .totalGlobalMem = settings().memory,
        .sharedMemPerBlock = 48 * 1024,
        .warpSize = 32,
        .maxThreadsPerBlock = 1024,
        .major = 9,
        .minor = 0,
        .multiProcessorCount = settings().processors,
        .sharedMemPerMultiprocessor = 228 * 1024,
        .sharedMemPerBlockOptin = largest_shared};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int device) {
  cudaDeviceProp p;
  if (auto const e = cudaGetDeviceProperties(&p, device); e != cudaSuccess)
    return e;
  switch (what) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
  }
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(void const* kernel, cudaFuncAttribute what, int value) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (kernel == nullptr)
    return result(cudaErrorInvalidDeviceFunction);
  if (what == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > static_cast<int>(largest_shared))
      return result(cudaErrorInvalidValue);
    cards().dynamic_shared[kernel] = value;
  }
  return cudaSuccess;
}

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulator {

inline cudaError_t may_launch(cudaLaunchConfig_t const& c, void const* kernel, queue const& q) {
  auto const &g = c.gridDim, &b = c.blockDim;
  if (kernel == nullptr)
    return cudaErrorInvalidDeviceFunction;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || b.x == 0 ||
      b.y == 0 || b.z == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 || b.x * b.y * b.z > 1024)
    return cudaErrorInvalidConfiguration;
  auto const allowed = cards().dynamic_shared.find(kernel);
  std::size_t const most = static_cast<std::size_t>(
      std::max(48 * 1024, allowed == cards().dynamic_shared.end() ? 0 : allowed->second));
  if (c.dynamicSmemBytes > most)
    return cudaErrorInvalidValue;
  if (c.numAttrs != 0)
    return cudaErrorNotSupported;
  return q.device == current_device() ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

/// Queues kernel(args…), which are copied now.
template <class... P>
cudaError_t launch(cudaLaunchConfig_t const& c, void (*kernel)(P...), P... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "a kernel's arguments are copied byte by byte");
  static_assert((sizeof(P) + ... + 0) <= 32764, "a kernel's arguments take at most 32,764 bytes");
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return e;
  auto const q = queue_of(c.stream);
  auto const* const address = reinterpret_cast<void const*>(kernel);
  if (auto const e = may_launch(c, address, *q); e != cudaSuccess)
    return e;
  struct call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };
  auto const made = std::make_shared<call>(call{kernel, {args...}});
  shape_of_launch const shape{address, c.gridDim, c.blockDim, c.dynamicSmemBytes};
  return enqueue(*q, kind::kernel, [made, shape] {
    blocks().run(
        shape,
        [](void* p) {
          auto const& this_call = *static_cast<call const*>(p);
          std::apply(this_call.kernel, this_call.arguments);
        },
        made.get());
    return true;
  });
}

}  // namespace emulator

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(P...), A&&... args) {
  return emulator::result(emulator::launch<P...>(*config, kernel, std::forward<A>(args)...));
}
