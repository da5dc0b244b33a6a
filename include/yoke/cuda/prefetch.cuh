// Batches on their way to the card: a thread pulls them from a loader and copies them while the step before computes.
#pragma once
#include <yoke/core/arena.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/mark.cuh>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

namespace yoke::cuda {

namespace detail {

/// The batch type B of a loader's `next(B&) -> bool`.
template <class Loader, class B>
B batch_of(bool (Loader::*)(B&));
template <class Loader>
using batch_t = decltype(batch_of(&Loader::next));

}  // namespace detail

/// A batch in device memory, with what the host wants to know of it. Batch is as yoke::data::batch.
template <class Batch>
class device_batch {
 public:
  decltype(Batch::labels) labels{};      // (batch)
  decltype(Batch::captions) captions{};  // (batch) or empty
  decltype(Batch::after) after{};        // where the next batch begins

  extent_t size() const { return pixels_.extent(0); }
  /// (batch, height, width, 3)
  view<std::uint8_t const, 4> pixels() const { return pixels_; }
  /// The ids and the offsets of the captions lie in device memory, the offsets in the host's too.
  yoke::tokens const& tokens() const { return tokens_; }

 private:
  template <class>
  friend class prefetch;

  view<std::uint8_t const, 4> pixels_{};
  yoke::tokens tokens_{};
};

/// Batches of a loader, in its order, in the memory of a context's card:
///
///     for (auto const& batch : cuda::prefetch{context, loader}) …
///
/// A thread calls loader.next(batch) and copies ahead by two batches; a batch handed out may be used by whatever is put
/// on the context's stream before the next one is asked for. Loader and context outlive this object, and only it uses
/// the loader, which it reads further than it hands out: to go on elsewhere, start at device_batch::after. What the
/// loader throws is thrown to the consumer when the batches before have been handed out. Buffers are kept, and grown
/// when a batch is larger than those before.
///
/// The destructor waits for a call of loader.next() that is under way. A loader that may wait for long has a member
/// stop(), which is then called from another thread and lets next() return.
template <class Loader>
class prefetch {
 public:
  using batch = device_batch<detail::batch_t<Loader>>;

  prefetch(detail::device& c, Loader& from) : context_{&c}, from_{&from} {
    thread_ = std::thread{[this] { run(); }};
  }
  prefetch(prefetch const&) = delete;
  prefetch& operator=(prefetch const&) = delete;
  ~prefetch() {
    {
      std::lock_guard const lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_all();
    if constexpr (requires { from_->stop(); })
      from_->stop();
    thread_.join();
    // Work that reads the buffers may be under way. If it has failed, whoever waits for it learns that.
    auto const mark = static_cast<cudaEvent_t>(places_[0].read);
    cudaEventRecord(mark, context_->stream());
    cudaStreamWaitEvent(copies_, mark, 0);
    cudaStreamSynchronize(copies_);
  }

  /// The next batch, which stays until the next call, or null after the last. Called by the thread that uses the context.
  batch const* next() {
    std::unique_lock lock{mutex_};
    if (std::exchange(held_, false)) {
      places_[taken_ % places_.size()].read.set(context_->stream());
      ++taken_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return taken_ < ready_ || ended_; });
    if (taken_ == ready_) {
      if (failure_)
        std::rethrow_exception(failure_);
      return nullptr;
    }
    auto& p = places_[taken_ % places_.size()];
    p.copied.hold(context_->stream());
    held_ = true;
    return &p.content;
  }

  /// Goes on where next() was.
  class iterator {
   public:
    using value_type = batch;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    explicit iterator(prefetch& from) : from_{&from} { ++*this; }
    batch const& operator*() const { return *at_; }
    iterator& operator++() {
      at_ = from_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return at_ == nullptr; }

   private:
    prefetch* from_ = nullptr;
    batch const* at_ = nullptr;
  };
  iterator begin() { return iterator{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  /// Where a batch lies: pixels, ids and offsets one after the other, in pinned memory and in the card's.
  struct place {
    batch content{};
    detail::pinned_block host{};
    detail::block card{};
    detail::mark copied{}, read{};  // reached by the copies' stream, by the context's
  };

  void run() {
    try {
      context_->make_current();
      while (from_->next(pulled_)) {
        auto* const p = free_place();
        if (p == nullptr)
          return;
        copy_to(*p);
        std::lock_guard const lock{mutex_};
        ++ready_;
        changed_.notify_all();
      }
    } catch (...) {
      failure_ = std::current_exception();
    }
    std::lock_guard const lock{mutex_};
    ended_ = true;
    changed_.notify_all();
  }

  /// Null when there is none to come.
  place* free_place() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return stopping_ || ready_ < taken_ + places_.size(); });
    return stopping_ ? nullptr : &places_[ready_ % places_.size()];
  }

  void copy_to(place& p) {
    auto const numbers = [](std::byte* from) { return reinterpret_cast<std::int32_t*>(from); };
    auto const images = pulled_.images();
    auto const ids = pulled_.token_ids();
    auto captions = pulled_.token_segments();
    auto const id_bytes = static_cast<std::size_t>(ids.size()) * sizeof(std::int32_t);
    auto const offset_bytes = static_cast<std::size_t>(captions.count + 1) * sizeof(std::int32_t);
    auto const first_offset = yoke::detail::align_up(static_cast<std::size_t>(images.size()));
    auto const first_id = first_offset + yoke::detail::align_up(offset_bytes);
    auto const bytes = first_id + id_bytes;

    p.copied.wait();       // the copy of the batch that was here before has left pinned memory,
    p.read.hold(copies_);  // and the step that used it is over before the card's memory changes
    if (p.card.size() < bytes) {
      auto const room = bytes + id_bytes;  // images stay as they are, captions get longer
      p.card = {};
      p.card = detail::block{copies_, room, "a batch"};
      p.host = {};
      p.host = detail::pinned_block{room};
    }
    std::copy_n(images.data, images.size(), reinterpret_cast<std::uint8_t*>(p.host.data()));
    std::copy_n(captions.offsets, captions.count + 1, numbers(p.host.data() + first_offset));
    std::copy_n(ids.data, ids.size(), numbers(p.host.data() + first_id));
    check(cudaMemcpyAsync(p.card.data(), p.host.data(), bytes, cudaMemcpyHostToDevice, copies_),
          "copy to the device");
    p.copied.set(copies_);

    captions.offsets = numbers(p.host.data() + first_offset);
    captions.device_offsets = numbers(p.card.data() + first_offset);
    auto& b = p.content;
    b.pixels_ = {reinterpret_cast<std::uint8_t const*>(p.card.data()), images.shape};
    b.tokens_ = {captions, {numbers(p.card.data() + first_id), ids.shape}};
    std::swap(b.labels, pulled_.labels);
    std::swap(b.captions, pulled_.captions);
    b.after = pulled_.after;
  }

  detail::device* context_;
  Loader* from_;
  detail::own_stream copies_{};
  std::array<place, 2> places_{};
  detail::batch_t<Loader> pulled_{};   // the thread's
  std::exception_ptr failure_{};       // the thread's until ended_
  std::size_t ready_ = 0, taken_ = 0;  // batches copied, and given back by the consumer; guarded by mutex_
  bool stopping_ = false, ended_ = false;  // guarded by mutex_
  bool held_ = false;                      // the consumer has batch taken_
  std::mutex mutex_{};
  std::condition_variable changed_{};
  std::thread thread_{};
};

}  // namespace yoke::cuda
