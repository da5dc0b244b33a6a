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

  constexpr extent_t size() const { return shape.size(); }
  constexpr extent_t extent(int axis) const { return shape[static_cast<std::size_t>(axis)]; }
  constexpr operator view<T const, Rank>() const requires(!std::is_const_v<T>) { return {data, shape}; }
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
