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
/// host go by way of the card, and the call returns when they are there. When a peer is gone, when NCCL reports an
/// error, or when ranks have waited for each other longer than the timeout, NCCL is aborted, the others are told, and
/// whatever the host waits for on the context, this call and every later one end in parallel::error with the same
/// sentence. So do ranks that disagree about what they call, when that lets one of them wait; NCCL does not compare
/// calls, and sizes that differ may also give wrong values.
///
/// NCCL chooses the order of sums: on the same machines a repeated run gives the same, and all ranks get the same, but
/// not bit for bit what threads or MPI give. It rounds sums of bf16 after each pair of ranks, not once.
///
/// A communicator and those that were split from it stand and fall together. They share the context's stream, so that
/// collectives of different ones come one after the other; every rank calls those that it has in common with another in
/// the same order. One that split_beside() gave has a stream of its own. traffic() has no seconds: the host does not see
/// how long the card takes. Collectives are not captured in graphs. For one thread at a time, which is the context's.
class nccl {
 public:
  nccl(detail::device& context, parallel::rendezvous& meeting, nccl_options const& options = {})
      : state_{std::make_unique<state>(context, options.timeout)} {
    state_->handle.emplace(context, meeting, options);
  }

  int rank() const { return state_->handle->rank(); }
  int size() const { return state_->handle->size(); }
  parallel::traffic const& traffic() const { return traffic_; }

  /// For the collectives below: the tensors as the card has them.
  template <class... V>
  detail::on_card stage(V... tensors) {
    expects(!state_->handle->is_beside() || !(detail::lies_on_host(tensors) || ...),
            "nccl: a communicator beside the stream takes tensors of the card");
    return {state_->context, state_->memory, tensors...};
  }
  detail::nccl_handle& handle() { return *state_->handle; }
  void count(parallel::collective which, extent_t bytes) {
    traffic_.count(which, static_cast<double>(bytes));
  }

 private:
  friend nccl split(nccl& c, int color);
  friend std::unique_ptr<nccl> split_beside(nccl& c);

  struct state {
    state(detail::device& d, std::chrono::milliseconds t) : context{d}, timeout{t} {}
    ~state() {
      handle.reset();
      if (memory.host.size() > 0 && !detail::drained(context, timeout))
        new (std::nothrow)
            detail::card_staging(std::move(memory));  // a stream that is stuck may still write it
    }
    state(state const&) = delete;
    state& operator=(state const&) = delete;

    detail::device& context;
    std::chrono::milliseconds timeout;
    detail::card_staging memory{};
    std::optional<detail::nccl_handle> handle;
  };
  nccl(nccl& whole, int color, std::span<int const> ranks)
      : state_{std::make_unique<state>(whole.state_->context, whole.state_->timeout)} {
    state_->handle.emplace(*whole.state_->handle, color, ranks);
  }

  std::unique_ptr<state> state_;
  parallel::traffic traffic_;
};

namespace detail {

template <element T>
inline constexpr ncclDataType_t nccl_type = std::is_same_v<T, float>    ? ncclFloat32
                                            : std::is_same_v<T, double> ? ncclFloat64
                                                                        : ncclBfloat16;

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

template <class T, int R, class U, int S>
void gather(nccl& c, view<T, R> mine, view<U, S> all, collective_call const& call) {
  if (mine.size() == 0)
    return;
  auto stage = c.stage(mine, all);
  auto const from = stage.bring(mine);
  auto const to = stage.room(all);
  c.handle().enqueue(call, [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclAllGather(from.data, to.data, bytes(mine), ncclInt8, ranks, stream);
  });
  stage.finish(to, all);
}

template <element T, int R>
void reduce(nccl& c, view<T, R> buffer, parallel::reduction how, collective_call const& call) {
  if (buffer.size() == 0)
    return;
  auto stage = c.stage(buffer);
  auto const here = stage.bring(buffer);
  c.handle().enqueue(call, [&](ncclComm_t ranks, cudaStream_t stream) {
    return ncclAllReduce(here.data, here.data, count(here), nccl_type<T>,
                         how == parallel::reduction::sum ? ncclSum : ncclMax, ranks, stream);
  });
  stage.finish(here, buffer);
}

/// Gives NCCL the calls of enqueue(begin), each by begin(what a function of NCCL's has returned), as one.
template <class Enqueue>
ncclResult_t together(Enqueue const& enqueue) {
  if (auto const status = ncclGroupStart(); status != ncclSuccess)
    return status;
  auto worst = ncclSuccess;
  enqueue([&](ncclResult_t status) {
    if (worst == ncclSuccess && status != ncclInProgress)
      worst = status;
  });
  auto const ended = ncclGroupEnd();  // in any case: the group is the thread's
  return worst != ncclSuccess ? worst : ended;
}

/// Bytes that a call sends, by the formulas of parallel/traffic.hpp.
template <class T, int R>
extent_t sent_each(nccl const& c, view<T, R> part) {
  return parallel::detail::sent_by_gather(static_cast<extent_t>(bytes(part)), c.size());
}

}  // namespace detail

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires parallel::detail::copies_to<T, U>
void all_gather(nccl& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  detail::gather(c, mine, all, detail::call_of("all_gather", mine));
  c.count(parallel::collective::all_gather, detail::sent_each(c, mine));
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires parallel::detail::sums_to<T, U>
void reduce_scatter(nccl& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  c.count(parallel::collective::reduce_scatter, detail::sent_each(c, mine));
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

template <element T, int R>
void all_reduce(nccl& c, view<T, R> buffer, parallel::reduction how = parallel::reduction::sum) {
  detail::reduce(c, buffer, how, detail::call_of("all_reduce", buffer));
  c.count(parallel::collective::all_reduce,
          parallel::detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size()) *
              static_cast<extent_t>(sizeof(T)));
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(nccl& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  c.count(parallel::collective::broadcast,
          parallel::detail::sent_by_broadcast(static_cast<extent_t>(detail::bytes(buffer)), c.rank(), root,
                                              c.size()));
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
  c.count(parallel::collective::exchange, to == c.rank() ? 0 : static_cast<extent_t>(detail::bytes(send)));
  if (send.size() == 0)
    return;
  auto stage = c.stage(send, receive);
  auto const outgoing = stage.bring(send);
  auto const incoming = stage.room(receive);
  c.handle().enqueue(detail::call_of("exchange", send), [&](ncclComm_t ranks, cudaStream_t stream) {
    return detail::together([&](auto const& begin) {
      begin(ncclSend(outgoing.data, detail::bytes(send), ncclInt8, to, ranks, stream));
      begin(ncclRecv(incoming.data, detail::bytes(receive), ncclInt8, from, ranks, stream));
    });
  });
  stage.finish(incoming, receive);
}

/// A broadcast of each rank's part, all at once.
template <class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(nccl& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  parallel::detail::expect_parts(begins, c.size(), buffer.size());
  auto const part_of = [&](int rank) {
    auto const r = static_cast<std::size_t>(rank);
    return view<T, 1>{buffer.data + begins[r], {{begins[r + 1] - begins[r]}}};
  };
  c.count(parallel::collective::all_gather_parts, detail::sent_each(c, part_of(c.rank())));
  if (begins.front() == begins.back())
    return;
  auto stage = c.stage(buffer);
  auto const here = stage.bring(buffer);
  c.handle().enqueue(detail::call_of("all_gather_parts", buffer), [&](ncclComm_t ranks, cudaStream_t stream) {
    return detail::together([&](auto const& begin) {
      for (int r = 0; r < c.size(); ++r) {
        auto* const part = here.data + begins[static_cast<std::size_t>(r)];
        if (part_of(r).size() > 0)
          begin(ncclBroadcast(part, part, detail::bytes(part_of(r)), ncclInt8, r, ranks, stream));
      }
    });
  });
  stage.finish(here, buffer);
}

/// Returns when every rank has called it and its stream has come to it.
inline void barrier(nccl& c) {
  float nothing = 0;
  detail::reduce(c, view<float, 1>{&nothing, {{1}}}, parallel::reduction::sum, {"barrier"});
  c.count(parallel::collective::barrier, 0);
}

/// A barrier at which ranks wait for what one of them does alone, such as an evaluation: `patience` long, where that is
/// more than the timeout.
inline void wait_for_all(nccl& c, std::chrono::milliseconds patience) {
  auto const timeout = c.handle().timeout();
  c.handle().set_timeout(std::max(patience, timeout));
  barrier(c);
  c.handle().set_timeout(timeout);
}

/// Ranks of one color keep their order. Waits for all that the stream has been given.
inline nccl split(nccl& c, int color) {
  std::vector<std::int32_t> mine{color}, colors(static_cast<std::size_t>(c.size()));
  detail::gather(c, view<std::int32_t const, 1>{mine.data(), {{1}}},
                 view<std::int32_t, 1>{colors.data(), {{c.size()}}}, {"split"});
  std::vector<int> ranks;
  for (int r = 0; r < c.size(); ++r)
    if (colors[static_cast<std::size_t>(r)] == color)
      ranks.push_back(r);
  return {c, ranks.front(), ranks};  // NCCL takes no color below 0: that of the first rank's number will do
}

/// All ranks again, for collectives beside other work: each begins when the context's stream has done what it was given
/// before, and what that is given later waits only after join(). Takes tensors of the card alone. NCCL wants nothing else
/// of these ranks' under way meanwhile: two collectives that run at once may each hold what the other needs.
inline std::unique_ptr<nccl> split_beside(nccl& c) {
  auto beside = std::make_unique<nccl>(split(c, 0));
  beside->state_->handle->leave_stream();
  return beside;
}
/// What the context's stream is given from now on waits for all collectives so far.
inline void join(nccl& c) {
  c.handle().join();
}

static_assert(parallel::communicator<nccl>);

}  // namespace yoke::cuda
