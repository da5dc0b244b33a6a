// Lesson 4: an op of your own, with its gradient check. An op is a struct with a forward, a backward, and what it saves
// between them. This one squares the positive part, max(x, 0)^2 (arXiv 2109.08668), by a kernel that it brings along.
#include <yoke/autograd/gradient_check.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/nn/linear.hpp>

#include <algorithm>
#include <cstdio>

namespace mine {

// The kernels, one overload for each backend that the op is to run on.
template <class T>
void square_positive(yoke::cpu::context<T>&, yoke::view<T const, 1> x, yoke::view<T, 1> y) {
  for (yoke::extent_t i = 0; i < x.size(); ++i) {
    auto const v = std::max(static_cast<yoke::accumulator_t<T>>(x.data[i]), yoke::accumulator_t<T>{0});
    y.data[i] = static_cast<T>(v * v);
  }
}
template <class T>
void square_positive_backward(yoke::cpu::context<T>&, yoke::view<T const, 1> x, yoke::view<T const, 1> dy,
                              yoke::view<T, 1> dx, yoke::store how) {
  using A = yoke::accumulator_t<T>;
  for (yoke::extent_t i = 0; i < x.size(); ++i) {
    auto const d = 2 * std::max(static_cast<A>(x.data[i]), A{0}) * static_cast<A>(dy.data[i]);
    dx.data[i] = static_cast<T>(how == yoke::store::overwrite ? d : static_cast<A>(dx.data[i]) + d);
  }
}

struct square_positive_op {
  template <class C, int R>
  auto forward(yoke::tape<C>& t, yoke::value<R> const& x) const {
    auto y = yoke::make<typename C::element>(t.context(), x.shape);
    square_positive(t.context(), as_flat(t(x)), as_flat(y));
    return std::pair{y, yoke::nothing_saved{}};  // backward needs x only, which the tape keeps
  }
  template <class C, int R>
  void backward(yoke::tape<C>& t, yoke::nothing_saved, yoke::view<typename C::element const, R> dy,
                yoke::value<R> const& x) const {
    if (auto dx = t.gradient_of(x))  // absent when nobody asks for it
      square_positive_backward(t.context(), as_flat(t(x)), as_flat(dy), as_flat(dx.data), dx.how);
  }
};

/// max(x, 0)^2, any shape.
template <class C, int R>
yoke::value<R> square_positive(yoke::tape<C>& t, yoke::value<R> x) {
  return t.apply(square_positive_op{}, x);
}

}  // namespace mine

int main() {
  using namespace yoke;
  parameter_list list;
  nn::linear const layer{scope{list} / "layer", {.in = 6, .out = 5}};
  cpu::context<double> device{mebibytes(1), mebibytes(1)};
  auto const result = gradient_check(
      device, list, [&](auto& t, value<2> x) { return mine::square_positive(t, layer(t, x)); }, {},
      shape{4, 6});
  std::printf("worst difference from central differences: %.1e (%s)\n", result.worst, result.where.c_str());
  return result.worst < 1e-7 ? 0 : 1;
}
