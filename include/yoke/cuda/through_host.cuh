// Ranks that compute on cards and talk through the host: any communicator of the host, for tensors of a card.
#pragma once
#include <yoke/cuda/staging.cuh>
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/solo.hpp>

#include <memory>

namespace yoke::cuda {

/// A communicator for a context, made of one for the host, which must outlive it as the context must:
///
///     cuda::through_host ranks{context, threads};
///
/// Tensors in device memory are copied to pinned memory, in the order of the context's stream, go the host's way, and are
/// copied back; tensors of the host go straight. Ranks may share a card.
template <parallel::communicator Ranks>
class through_host {
 public:
  through_host(detail::device& context, Ranks& ranks) : device_{&context}, ranks_{&ranks} {}
  /// Of a communicator that it owns: what a split gives.
  through_host(detail::device& context, std::unique_ptr<Ranks> ranks)
      : device_{&context}, ranks_{ranks.get()}, owned_{std::move(ranks)} {}
  through_host(through_host&& other) = default;
  through_host& operator=(through_host&&) = delete;
  ~through_host() {
    if (memory_.size() > 0)
      cudaStreamSynchronize(device_->stream());  // it may still read the memory that goes now
  }

  int rank() const { return ranks_->rank(); }
  int size() const { return ranks_->size(); }
  parallel::traffic traffic() const { return std::as_const(*ranks_).traffic(); }
  detail::device& context() const { return *device_; }
  Ranks& host() const { return *ranks_; }

  /// What the collectives below work with: the tensors as the host has them.
  template <class... V>
  detail::on_host stage(V... tensors) {
    return {*device_, memory_, tensors...};
  }

 private:
  detail::device* device_;
  Ranks* ranks_;
  std::unique_ptr<Ranks> owned_;
  detail::pinned_block memory_;
};

template <class Ranks, class T, int R, class U, int S>
requires parallel::detail::copies_to<T, U>
void all_gather(through_host<Ranks>& c, view<T, R> mine, view<U, S> all) {
  auto stage = c.stage(mine, all);
  auto const from = stage.bring(mine);
  auto const to = stage.room(all);
  stage.wait();
  all_gather(c.host(), from, to);
  stage.take_back(to, all);
}

template <class Ranks, class T, int R, class U, int S>
requires parallel::detail::sums_to<T, U>
void reduce_scatter(through_host<Ranks>& c, view<T, R> all, view<U, S> mine) {
  auto stage = c.stage(all, mine);
  auto const from = stage.bring(all);
  auto const to = stage.room(mine);
  stage.wait();
  reduce_scatter(c.host(), from, to);
  stage.take_back(to, mine);
}

template <class Ranks, element T, int R>
void all_reduce(through_host<Ranks>& c, view<T, R> buffer,
                parallel::reduction how = parallel::reduction::sum) {
  auto stage = c.stage(buffer);
  auto const here = stage.bring(buffer);
  stage.wait();
  all_reduce(c.host(), here, how);
  stage.take_back(here, buffer);
}

template <class Ranks, class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(through_host<Ranks>& c,
                                                                                view<T, R> buffer, int root) {
  auto stage = c.stage(buffer);
  auto const here = c.rank() == root ? stage.bring(buffer) : stage.room(buffer);
  stage.wait();
  broadcast(c.host(), here, root);
  if (c.rank() != root)
    stage.take_back(here, buffer);
}

template <class Ranks, class T, int R, class U, int S>
requires parallel::detail::copies_to<T, U>
void exchange(through_host<Ranks>& c, int to, view<T, R> send, int from, view<U, S> receive) {
  auto stage = c.stage(send, receive);
  auto const outgoing = stage.bring(send);
  auto const incoming = stage.room(receive);
  stage.wait();
  exchange(c.host(), to, outgoing, from, incoming);
  stage.take_back(incoming, receive);
}

template <class Ranks, class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(through_host<Ranks>& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  auto stage = c.stage(buffer);
  auto const here = stage.bring(buffer);
  stage.wait();
  all_gather_parts(c.host(), here, begins);
  stage.take_back(here, buffer);
}

template <class Ranks>
void barrier(through_host<Ranks>& c) {
  barrier(c.host());
}

template <class Ranks>
void wait_for_all(through_host<Ranks>& c, std::chrono::milliseconds patience) {
  parallel::detail::wait_for_late(c.host(), patience);
}

template <class Ranks>
through_host<Ranks> split(through_host<Ranks>& c, int color) {
  return {c.context(), std::unique_ptr<Ranks>{new Ranks(split(c.host(), color))}};
}

static_assert(parallel::communicator<through_host<parallel::solo>>);

}  // namespace yoke::cuda
