// A communicator of which only its use is known: for code that should not be compiled for each kind, such as a tape's
// operations, and programs that learn from their launcher which ranks they have.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace yoke::parallel {

namespace detail {

/// The elements that can be summed.
enum class scalar_kind { f32, f64, bf16 };

template <element T>
inline constexpr scalar_kind kind_of = std::is_same_v<T, float>    ? scalar_kind::f32
                                       : std::is_same_v<T, double> ? scalar_kind::f64
                                                                   : scalar_kind::bf16;

/// Calls f with a null pointer of the type that `kind` names.
template <class F>
void with_scalar(scalar_kind kind, F const& f) {
  if (kind == scalar_kind::f32)
    f(static_cast<float*>(nullptr));
  else if (kind == scalar_kind::f64)
    f(static_cast<double*>(nullptr));
  else
    f(static_cast<bf16*>(nullptr));
}

/// A barrier at which a rank may be so much later than the others: that of communicators which do not wait for longer than
/// a timeout is wait_for_all.
template <communicator C>
void wait_for_late(C& c, std::chrono::milliseconds patience) {
  if constexpr (requires { wait_for_all(c, patience); })
    wait_for_all(c, patience);
  else
    barrier(c);
}

using bytes_in = view<std::uint8_t const, 1>;
using bytes_out = view<std::uint8_t, 1>;

/// What is only copied goes as bytes.
template <class T, int R>
bytes_in as_bytes(view<T const, R> v) {
  return {reinterpret_cast<std::uint8_t const*>(v.data), {{bytes_of<T>(v.size())}}};
}
template <class T, int R>
requires(!std::is_const_v<T>) bytes_out as_bytes(view<T, R> v) {
  return {reinterpret_cast<std::uint8_t*>(v.data), {{bytes_of<T>(v.size())}}};
}

struct any_ranks {
  any_ranks() = default;
  any_ranks(any_ranks const&) = delete;
  any_ranks& operator=(any_ranks const&) = delete;
  virtual ~any_ranks() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual parallel::traffic sent() const = 0;
  virtual void gather(bytes_in mine, bytes_out all) = 0;
  virtual void scatter_sum(scalar_kind kind, void const* all, extent_t elements, void* mine) = 0;
  virtual void sum(scalar_kind kind, void* buffer, extent_t elements, reduction how) = 0;
  virtual void give(bytes_out buffer, int root) = 0;
  virtual void swap(int to, bytes_in send, int from, bytes_out receive) = 0;
  virtual void gather_parts(bytes_out buffer, std::span<extent_t const> begins) = 0;
  virtual void meet() = 0;
  virtual void meet_late(std::chrono::milliseconds patience) = 0;
  virtual std::shared_ptr<any_ranks> part(int color) = 0;
  virtual std::shared_ptr<any_ranks> beside() = 0;
  virtual void meet_stream() = 0;
};

/// Of a communicator that it owns (C), or that somebody else does (C&).
template <class C>
struct any_ranks_of final : any_ranks {
  using communicator_type = std::remove_reference_t<C>;
  C c;

  explicit any_ranks_of(C& whole) requires std::is_reference_v<C> : c(whole) {}
  any_ranks_of(communicator_type& whole, int color) requires(!std::is_reference_v<C>)
      : c(split(whole, color)) {}
  explicit any_ranks_of(communicator_type&& whole) requires(!std::is_reference_v<C>) : c(std::move(whole)) {}

  int rank() const override { return c.rank(); }
  int size() const override { return c.size(); }
  parallel::traffic sent() const override { return std::as_const(c).traffic(); }
  void gather(bytes_in mine, bytes_out all) override { all_gather(c, mine, all); }
  void scatter_sum(scalar_kind kind, void const* all, extent_t elements, void* mine) override {
    with_scalar(kind, [&]<class T>(T*) {
      reduce_scatter(c, view<T const, 1>{static_cast<T const*>(all), {{elements}}},
                     view<T, 1>{static_cast<T*>(mine), {{elements / c.size()}}});
    });
  }
  void sum(scalar_kind kind, void* buffer, extent_t elements, reduction how) override {
    with_scalar(kind, [&]<class T>(T*) {
      all_reduce(c, view<T, 1>{static_cast<T*>(buffer), {{elements}}}, how);
    });
  }
  void give(bytes_out buffer, int root) override { broadcast(c, buffer, root); }
  void swap(int to, bytes_in send, int from, bytes_out receive) override {
    exchange(c, to, send, from, receive);
  }
  void gather_parts(bytes_out buffer, std::span<extent_t const> begins) override {
    all_gather_parts(c, buffer, begins);
  }
  void meet() override { barrier(c); }
  void meet_late(std::chrono::milliseconds patience) override { wait_for_late(c, patience); }
  std::shared_ptr<any_ranks> part(int color) override {
    return std::make_shared<any_ranks_of<communicator_type>>(c, color);
  }
  std::shared_ptr<any_ranks> beside() override {
    if constexpr (has_streams<communicator_type>)
      return std::make_shared<any_ranks_of<communicator_type>>(std::move(*split_beside(c)));
    else
      return nullptr;
  }
  void meet_stream() override {
    if constexpr (has_streams<communicator_type>)
      join(c);
  }
};

}  // namespace detail

/// A reference to a communicator of any kind, which outlives it; or what a split of one gave, which it owns. Copies are
/// the same communicator.
class any {
 public:
  template <communicator C>
  requires(!std::same_as<C, any>) explicit any(C& c)
      : ranks_{std::make_shared<detail::any_ranks_of<C&>>(c)} {}

  int rank() const { return ranks_->rank(); }
  int size() const { return ranks_->size(); }
  parallel::traffic traffic() const { return ranks_->sent(); }

  detail::any_ranks& operator*() const { return *ranks_; }
  detail::any_ranks* operator->() const { return ranks_.get(); }

 private:
  friend any split(any& c, int color);
  friend std::unique_ptr<any> split_beside(any& c);
  explicit any(std::shared_ptr<detail::any_ranks> ranks) : ranks_{std::move(ranks)} {}

  std::shared_ptr<detail::any_ranks> ranks_;
};

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(any& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  c->gather(detail::as_bytes(view<U const, R>{mine}), detail::as_bytes(all));
}

template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(any& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  c->scatter_sum(detail::kind_of<U>, all.data, all.size(), mine.data);
}

template <element T, int R>
void all_reduce(any& c, view<T, R> buffer, reduction how = reduction::sum) {
  c->sum(detail::kind_of<T>, buffer.data, buffer.size(), how);
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(any& c, view<T, R> buffer,
                                                                                int root) {
  c->give(detail::as_bytes(buffer), root);
}

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(any& c, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(send.size() == receive.size(), "exchange: as many elements come as go");
  c->swap(to, detail::as_bytes(view<U const, R>{send}), from, detail::as_bytes(receive));
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(any& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  detail::expect_parts(begins, c.size(), buffer.size());
  std::vector<extent_t> in_bytes(begins.begin(), begins.end());
  for (auto& b : in_bytes) b = detail::bytes_of<T>(b);
  c->gather_parts(detail::as_bytes(buffer), in_bytes);
}

inline void barrier(any& c) {
  c->meet();
}

/// A barrier at which ranks wait for what one of them does alone: `patience` long, if the communicator has a timeout.
inline void wait_for_all(any& c, std::chrono::milliseconds patience) {
  c->meet_late(patience);
}

inline any split(any& c, int color) {
  return any{c->part(color)};
}

/// All ranks again, for collectives beside a device's other work until join(); null when the communicator has no streams
/// for that.
inline std::unique_ptr<any> split_beside(any& c) {
  auto beside = c->beside();
  return beside ? std::unique_ptr<any>(new any{std::move(beside)}) : nullptr;
}
inline void join(any& c) {
  c->meet_stream();
}

static_assert(communicator<any>);

}  // namespace yoke::parallel
