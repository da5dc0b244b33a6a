// Where a tensor lies, and the copy that it has on the other side while ranks exchange it.
#pragma once
#include <yoke/cuda/device.cuh>

#include <cstring>
#include <type_traits>

namespace yoke::cuda::detail {

/// Whether the address is the card's; what the card could only reach across the bus is the host's.
inline bool in_device_memory(void const* p) {
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, p), "where a tensor lies");
  return found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged;
}

/// Bytes that a tensor takes in a block of staging memory.
template <class T, int R>
std::size_t staged_bytes(view<T, R> v) {
  constexpr std::size_t alignment = 256;
  return (static_cast<std::size_t>(v.size()) * sizeof(T) + alignment - 1) / alignment * alignment;
}

template <class T, int R>
bool lies_on_card(view<T, R> v) {
  return v.size() > 0 && in_device_memory(v.data);
}
template <class T, int R>
bool lies_on_host(view<T, R> v) {
  return v.size() > 0 && !in_device_memory(v.data);
}

inline void copy_in_order(device& d, void* to, void const* from, std::size_t bytes, cudaMemcpyKind way) {
  check(cudaMemcpyAsync(to, from, bytes, way, d.stream()), "copy of a tensor that ranks exchange");
}

/// The tensors of one collective as the host has them: those in device memory have copies in pinned memory.
class on_host {
 public:
  template <class... V>
  on_host(device& d, pinned_block& memory, V... tensors) : device_{d}, memory_{memory} {
    auto const bytes = ((lies_on_card(tensors) ? staged_bytes(tensors) : 0) + ...);
    if (memory.size() >= bytes)
      return;
    d.wait();  // the card may still read what goes now
    memory = pinned_block{bytes};
  }

  /// Enqueues a copy of the tensor; it is there after wait().
  template <class T, int R>
  view<T, 1> bring(view<T, R> v) {
    auto const here = room(v);
    if (here.data != v.data)
      copy_in_order(device_, const_cast<std::remove_const_t<T>*>(here.data), v.data, bytes_of(v),
                    cudaMemcpyDeviceToHost);
    return here;
  }
  /// As much room as the tensor takes, to be written after wait().
  template <class T, int R>
  view<T, 1> room(view<T, R> v) {
    if (!lies_on_card(v))
      return as_flat(v);
    auto* const p = reinterpret_cast<T*>(memory_.data() + taken_);
    taken_ += staged_bytes(v);
    return {p, {{v.size()}}};
  }
  void wait() const {
    if (taken_ > 0)
      device_.wait();
  }
  /// Enqueues the copy back to where `bring` or `room` had the tensor from.
  template <class T, int R>
  void take_back(view<T, 1> here, view<T, R> v) {
    if (here.data != v.data)
      copy_in_order(device_, v.data, here.data, bytes_of(v), cudaMemcpyHostToDevice);
  }

 private:
  template <class T, int R>
  static std::size_t bytes_of(view<T, R> v) {
    return static_cast<std::size_t>(v.size()) * sizeof(T);
  }

  device& device_;
  pinned_block& memory_;
  std::size_t taken_ = 0;
};

/// Memory for on_card: of the card, and pinned.
struct card_staging {
  block card;
  pinned_block host;
};

/// The tensors of one collective as the card has them: those of the host have copies in device memory. The copies go by
/// way of pinned memory, because one from or to other memory may wait, unwatched, for all that the stream has been given.
class on_card {
 public:
  template <class... V>
  on_card(device& d, card_staging& memory, V... tensors) : device_{d}, memory_{memory} {
    auto const bytes = ((lies_on_host(tensors) ? staged_bytes(tensors) : 0) + ...);
    if (memory.host.size() >= bytes)
      return;
    d.wait_watched();  // memory of the host is taken when the card is idle, and nobody would watch
    memory.card = block{d.stream(), bytes, "tensors of the host that ranks exchange"};
    memory.host = pinned_block{bytes};  // nothing uses it: finish() has waited
  }

  template <class T, int R>
  view<T, 1> bring(view<T, R> v) {
    auto const at = taken_;
    auto const here = room(v);
    if (here.data != v.data) {
      auto const bytes = static_cast<std::size_t>(v.size()) * sizeof(T);
      std::memcpy(memory_.host.data() + at, v.data, bytes);
      copy_in_order(device_, memory_.card.data() + at, memory_.host.data() + at, bytes,
                    cudaMemcpyHostToDevice);
    }
    return here;
  }
  template <class T, int R>
  view<T, 1> room(view<T, R> v) {
    if (!lies_on_host(v))
      return as_flat(v);
    auto* const p = reinterpret_cast<T*>(memory_.card.data() + taken_);
    taken_ += staged_bytes(v);
    return {p, {{v.size()}}};
  }
  /// The tensor that a collective has written; when it is the host's, it is there when this returns.
  template <class T, int R>
  void finish(view<T, 1> here, view<T, R> v) {
    auto const bytes = static_cast<std::size_t>(v.size()) * sizeof(T);
    auto* const landing = memory_.host.data();
    if (here.data != v.data)
      copy_in_order(device_, landing, here.data, bytes, cudaMemcpyDeviceToHost);
    if (taken_ > 0)
      device_.wait();
    if (here.data != v.data)
      std::memcpy(v.data, landing, bytes);
  }

 private:
  device& device_;
  card_staging& memory_;
  std::size_t taken_ = 0;
};

}  // namespace yoke::cuda::detail
