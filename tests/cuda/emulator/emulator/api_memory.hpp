// The runtime's functions on memory: allocation, copies,
// fills, what a pointer points to.
#pragma once
#include "api_streams.hpp"

namespace emulator {

/// Where `bytes` from p on lie.
inline place place_of(void const* p, std::size_t bytes) {
  auto& all = cards();
  if (all.memory.inside(p))
    return all.memory.holds(p, bytes) ? place::device : place::nowhere;
  return all.pinned.inside(p) ? place::pinned : place::pageable;
}

inline void* allocate(int device, std::size_t bytes) {
  auto& all = cards();
  auto* p = all.memory.allocate(bytes, device);
  if (p == nullptr) {
    all.drain();  // what is still to be freed
    p = all.memory.allocate(bytes, device);
  }
  return p;
}

inline bool fits(cudaMemcpyKind how, place to, place from) {
  bool const on_to = to == place::device, on_from = from == place::device;
  switch (how) {
    case cudaMemcpyHostToHost:
      return !on_to && !on_from;
    case cudaMemcpyHostToDevice:
      return on_to && !on_from;
    case cudaMemcpyDeviceToHost:
      return !on_to && on_from;
    case cudaMemcpyDeviceToDevice:
      return on_to && on_from;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

/// Queues a copy. Pageable memory is read at once, and has been written when the call returns; pinned memory is
/// read or written when the stream comes to it.
inline cudaError_t copy(guard& held, void* to, void const* from, std::size_t bytes, cudaMemcpyKind how,
                        std::shared_ptr<queue> const& q) {
  if (bytes == 0)
    return cudaSuccess;
  if (to == nullptr || from == nullptr)
    return cudaErrorInvalidValue;
  auto const target = place_of(to, bytes), source = place_of(from, bytes);
  if (target == place::nowhere || source == place::nowhere || !fits(how, target, source))
    return cudaErrorInvalidValue;
  if (q->capture != nullptr && (target == place::pageable || source == place::pageable))
    return invalidate(*q, cudaErrorStreamCaptureUnsupported);
  auto e = cudaSuccess;
  if (source == place::pageable) {
    auto const* const bytes_now = static_cast<std::byte const*>(from);
    auto kept = std::make_shared<std::vector<std::byte>>(bytes_now, bytes_now + bytes);
    e = enqueue(*q, kind::copy, [to, kept] {
      std::memcpy(to, kept->data(), kept->size());
      return true;
    });
  } else {
    e = enqueue(*q, kind::copy, [to, from, bytes] {
      std::memmove(to, from, bytes);
      return true;
    });
  }
  if (e == cudaSuccess && target == place::pageable)
    e = synchronise(held, q);
  return e;
}

inline cudaError_t fill(void* p, int value, std::size_t bytes, queue& q) {
  if (bytes == 0)
    return cudaSuccess;
  auto const where = place_of(p, bytes);
  if (where != place::device && where != place::pinned)
    return cudaErrorInvalidValue;
  return enqueue(q, kind::fill, [p, value, bytes] {
    std::memset(p, value, bytes);
    return true;
  });
}

}  // namespace emulator

inline cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t s) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (p == nullptr)
    return result(cudaErrorInvalidValue);
  *p = nullptr;
  auto const q = queue_of(s);
  if (q->capture != nullptr)  // CUDA would put the allocation into the graph; Yoke never wants that
    return result(invalidate(*q, cudaErrorStreamCaptureUnsupported));
  if (bytes == 0)
    return cudaSuccess;
  auto* const made = allocate(q->device, bytes);
  if (made == nullptr)
    return result(cudaErrorMemoryAllocation);
  *p = made;
  return result(enqueue(*q, kind::fill, [made] {
    cards().memory.prepare(made);
    return true;
  }));
}
inline cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  using namespace emulator;
  guard const held{cards().lock};
  if (p == nullptr)
    return cudaSuccess;
  auto const q = queue_of(s);
  if (!cards().memory.owns(p))
    return result(cudaErrorInvalidValue);
  if (q->capture != nullptr)
    return result(invalidate(*q, cudaErrorStreamCaptureUnsupported));
  return result(enqueue(*q, kind::free, [p] {
    cards().memory.free(p);
    return true;
  }));
}
inline cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (p == nullptr)
    return result(cudaErrorInvalidValue);
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  *p = nullptr;
  if (bytes == 0)
    return cudaSuccess;
  auto* const made = allocate(current_device(), bytes);
  if (made == nullptr)
    return result(cudaErrorMemoryAllocation);
  device_memory::access const open{cards().memory};
  cards().memory.prepare(made);
  *p = made;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  using namespace emulator;
  guard held{cards().lock};
  if (p == nullptr)
    return cudaSuccess;
  if (!cards().memory.owns(p))
    return result(cudaErrorInvalidValue);
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  if (auto const e = synchronise_device(held, cards().memory.device_of(p)); e != cudaSuccess)
    return result(e);
  device_memory::access const open{cards().memory};
  cards().memory.free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  *p = bytes == 0 ? nullptr : cards().pinned.allocate(bytes);
  return result(bytes != 0 && *p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
inline cudaError_t cudaFreeHost(void* p) {
  using namespace emulator;
  guard const held{cards().lock};
  if (p == nullptr)
    return cudaSuccess;
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  cards().drain();  // as the real one waits for the card
  return result(cards().pinned.free(p) ? cudaSuccess : cudaErrorInvalidValue);
}
template <class T>
cudaError_t cudaMallocAsync(T** p, std::size_t bytes, cudaStream_t s) {
  return cudaMallocAsync(reinterpret_cast<void**>(p), bytes, s);
}
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(p), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** p, std::size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(p), bytes);
}

inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind how,
                                   cudaStream_t s = nullptr) {
  using namespace emulator;
  guard held{cards().lock};
  return result(copy(held, to, from, bytes, how, queue_of(s)));
}
/// On the default stream, and waits for it.
inline cudaError_t cudaMemcpy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind how) {
  using namespace emulator;
  guard held{cards().lock};
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  auto const q = queue_of(nullptr);
  if (auto const e = copy(held, to, from, bytes, how, q); e != cudaSuccess || how == cudaMemcpyDeviceToDevice)
    return result(e);
  return result(synchronise(held, q));
}
inline cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t s = nullptr) {
  using namespace emulator;
  guard const held{cards().lock};
  return result(fill(p, value, bytes, *queue_of(s)));
}
inline cudaError_t cudaMemset(void* p, int value, std::size_t bytes) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  return result(fill(p, value, bytes, *queue_of(nullptr)));
}
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  *free = cards().memory.left(current_device());
  *total = settings().memory;
  return cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, void const* p) {
  using namespace emulator;
  guard const held{cards().lock};
  *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, const_cast<void*>(p), {}};
  auto const where = place_of(p, 1);
  if (where == place::device)
    *attributes = {cudaMemoryTypeDevice, cards().memory.device_of(p), const_cast<void*>(p), nullptr, {}};
  else if (where == place::pinned)
    *attributes = {cudaMemoryTypeHost, current_device(), const_cast<void*>(p), const_cast<void*>(p), {}};
  return cudaSuccess;
}
