// Shapes and non-owning row-major views. Rank is static, extents are dynamic.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace yoke {

using extent_t = std::int64_t;

/// The extents of a row-major tensor, outermost first.
template <int Rank>
struct shape : std::array<extent_t, static_cast<std::size_t>(Rank)> {
  constexpr extent_t size() const {  // elements, not rank
    extent_t n = 1;
    for (auto d : *this) n *= d;
    return n;
  }
};
template <class... I>
shape(I...) -> shape<static_cast<int>(sizeof...(I))>;

/// A contiguous row-major tensor that somebody else owns. `data` is null on the dry backend.
template <class T, int Rank>
struct view {
  T* data = nullptr;
  yoke::shape<Rank> shape{};

  constexpr view() = default;
  constexpr view(T* first, yoke::shape<Rank> s) : data{first}, shape{s} {}
  /// Of a view that may write, one that reads.
  template <class U>
  requires(std::is_same_v<U const, T> && !std::is_same_v<U, T>) constexpr view(view<U, Rank> v)
      : data{v.data}, shape{v.shape} {}

  constexpr extent_t size() const { return shape.size(); }
  constexpr extent_t extent(int axis) const { return shape[static_cast<std::size_t>(axis)]; }
};

/// `count` consecutive slices of the outermost axis, from `first` on.
template <class T, int Rank>
constexpr view<T, Rank> slice(view<T, Rank> v, extent_t first, extent_t count) {
  auto const stride = v.extent(0) == 0 ? 0 : v.size() / v.extent(0);
  auto s = v.shape;
  s[0] = count;
  return {v.data == nullptr ? nullptr : v.data + first * stride, s};
}

/// All axes but the last folded into one: (rows, width).
template <class T, int Rank>
constexpr view<T, 2> as_rows(view<T, Rank> v) {
  auto const width = v.extent(Rank - 1);
  return {v.data, {{width == 0 ? 0 : v.size() / width, width}}};
}

/// One axis.
template <class T, int Rank>
constexpr view<T, 1> as_flat(view<T, Rank> v) {
  return {v.data, {{v.size()}}};
}

/// What a kernel does with its destination: D = op(...) or D += op(...).
enum class store { overwrite, accumulate };

enum class transpose : bool { no, yes };

}  // namespace yoke
