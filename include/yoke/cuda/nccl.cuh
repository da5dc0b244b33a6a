// Ranks with a card each, in processes that torchrun or its like has started: collectives by NCCL.
#pragma once
#include <yoke/cuda/nccl_handle.cuh>
#include <yoke/cuda/staging.cuh>
#include <yoke/parallel/communicator.hpp>

#include <new>

namespace yoke::cuda {

/// A communicator for a context, whose rank, size and peers are those of a rendezvous; both must outlive it:
///
///     auto const here = parallel::read_environment();
///     parallel::rendezvous meeting{here, {.configuration = parallel::configuration_hash(settings)}};
///     cuda::context<bf16> context{…, {.device = here.local_rank}};
///     cuda::nccl ranks{context, meeting};
///
/// Tensors in device memory take part in the order of the context's stream, and the host does not wait; tensors of the
/// host go by way of the card, and the call returns when they are there. When a peer is gone, when NCCL reports an error,
/// or when ranks have waited for each other longer than the timeout, NCCL is aborted, the others are told, and whatever
/// the host waits for on the context, this call and every later one end in parallel::error with the same sentence. So do
/// ranks that disagree about what they call, when that lets one of them wait; NCCL does not compare calls, and sizes that
/// differ may also give wrong values. NCCL chooses the order of sums: on the same machines a repeated run gives the same.
/// Collectives are not captured in graphs. For one thread at a time, which is the context's.
class nccl {
 public:
  nccl(detail::device& context, parallel::rendezvous& meeting, nccl_options const& options = {})
      : context_{context}, timeout_{options.timeout} {
    handle_.emplace(context, meeting, options);
  }
  nccl(nccl const&) = delete;
  nccl& operator=(nccl const&) = delete;
  ~nccl() {
    handle_.reset();
    if (memory_.host.size() > 0 && !detail::drained(context_, timeout_))
      new (std::nothrow)
          detail::card_staging(std::move(memory_));  // a stream that is stuck may still write it
  }

  int rank() const { return handle_->rank(); }
  int size() const { return handle_->size(); }

  /// For the collectives below: the tensors as the card has them.
  template <class... V>
  detail::on_card stage(V... tensors) {
    return {context_, memory_, tensors...};
  }
  detail::nccl_handle& handle() { return *handle_; }

 private:
  detail::device& context_;
  std::chrono::milliseconds timeout_;
  detail::card_staging memory_;
  std::optional<detail::nccl_handle> handle_;
};

namespace detail {

template <class T>
inline constexpr ncclDataType_t nccl_type = std::is_same_v<T, float> ? ncclFloat32 : ncclFloat64;

template <class T>
concept nccl_sums = std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class T, int R>
std::size_t count(view<T, R> v) {
  return static_cast<std::size_t>(v.size());
}
/// What is only copied goes as bytes.
template <class T, int R>
std::size_t bytes(view<T, R> v) {
  return count(v) * sizeof(T);
}
template <class T, int R>
collective_call call_of(char const* name, view<T, R> v) {
  return {name, count(v), sizeof(T)};
}

}  // namespace detail

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires parallel::detail::copies_to<T, U>
void all_gather(nccl& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  if (mine.size() == 0)
    return;
  auto stage = c.stage(mine, all);
  auto const from = stage.bring(mine);
  auto const to = stage.room(all);
  c.handle().enqueue(detail::call_of("all_gather", mine), [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclAllGather(from.data, to.data, detail::bytes(mine), ncclInt8, ranks, stream);
  });
  stage.finish(to, all);
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, detail::nccl_sums U, int S>
requires parallel::detail::sums_to<T, U>
void reduce_scatter(nccl& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  if (mine.size() == 0)
    return;
  auto stage = c.stage(all, mine);
  auto const from = stage.bring(all);
  auto const to = stage.room(mine);
  c.handle().enqueue(detail::call_of("reduce_scatter", all), [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclReduceScatter(from.data, to.data, detail::count(mine), detail::nccl_type<U>, ncclSum, ranks,
                             stream);
  });
  stage.finish(to, mine);
}

template <detail::nccl_sums T, int R>
void all_reduce(nccl& c, view<T, R> buffer, parallel::reduction how = parallel::reduction::sum) {
  if (buffer.size() == 0)
    return;
  auto stage = c.stage(buffer);
  auto const here = stage.bring(buffer);
  c.handle().enqueue(detail::call_of("all_reduce", buffer), [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclAllReduce(here.data, here.data, detail::count(here), detail::nccl_type<T>,
                         how == parallel::reduction::sum ? ncclSum : ncclMax, ranks, stream);
  });
  stage.finish(here, buffer);
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(nccl& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  if (buffer.size() == 0)
    return;
  auto stage = c.stage(buffer);
  auto const here = c.rank() == root ? stage.bring(buffer) : stage.room(buffer);
  c.handle().enqueue(detail::call_of("broadcast", buffer), [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclBroadcast(here.data, here.data, detail::bytes(buffer), ncclInt8, root, ranks, stream);
  });
  stage.finish(here, buffer);
}

/// `send` and `receive` do not overlap; every rank sends once and receives once.
template <class T, int R, class U, int S>
requires parallel::detail::copies_to<T, U>
void exchange(nccl& c, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(to >= 0 && to < c.size() && from >= 0 && from < c.size(), "peers are ranks of the communicator");
  expects(send.size() == receive.size(), "exchange: as many elements come as go");
  if (send.size() == 0)
    return;
  auto stage = c.stage(send, receive);
  auto const outgoing = stage.bring(send);
  auto const incoming = stage.room(receive);
  c.handle().enqueue(detail::call_of("exchange", send), [&](ncclComm_t ranks, cudaStream_t stream) {
    if (auto const status = ncclGroupStart(); status != ncclSuccess)
      return status;
    auto const sent = ncclSend(outgoing.data, detail::bytes(send), ncclInt8, to, ranks, stream);
    auto const received = ncclRecv(incoming.data, detail::bytes(receive), ncclInt8, from, ranks, stream);
    auto const ended = ncclGroupEnd();  // in any case: the group is the thread's
    for (auto const status : {sent, received})
      if (status != ncclSuccess && status != ncclInProgress)
        return status;
    return ended;
  });
  stage.finish(incoming, receive);
}

/// Returns when every rank has called it and its stream has come to it.
inline void barrier(nccl& c) {
  float nothing = 0;
  all_reduce(c, view<float, 1>{&nothing, {{1}}});
}

static_assert(parallel::communicator<nccl>);

}  // namespace yoke::cuda
