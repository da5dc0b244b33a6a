// Convolutions against plain loops in double precision; the same bits for any number of threads.
#include <yoke/cpu/convolution.hpp>

#include "images.hpp"

using namespace checks;

namespace {

template <class T>
struct convolution_case {
  using A = accumulator_t<T>;
  images s;
  tensor<T, 4> x, dy;
  tensor<T, 2> weights;
  tensor<A, 1> bias;

  convolution_case(images const& of, extent_t in, extent_t out, bool with_bias = true)
      : s{of},
        x{s.input(in), 1},
        dy{s.output(out), 2},
        weights{{{out, s.w.size * s.w.size * in}}, 3},
        bias{{{with_bias ? out : 0}}, 4} {}
  extent_t in() const { return x.shape[3]; }
  extent_t out() const { return dy.shape[3]; }

  tensor<T, 4> forward() const {
    tensor<T, 4> y{dy.shape};
    convolution_forward(device<T>(), s.w, x.read(), weights.read(), bias.read(), y.view());
    return y;
  }
  tensor<T, 4> backward_input(store how, tensor<T, 4> dx) const {
    convolution_backward_input(device<T>(), s.w, weights.read(), dy.read(), dx.view(), how);
    return dx;
  }
  template <class W>
  tensor<W, 2> backward_weights(store how, tensor<W, 2> dweights) const {
    convolution_backward_weights(device<T>(), s.w, x.read(), dy.read(), dweights.view(), how);
    return dweights;
  }

  std::vector<double> expected_forward() const {
    std::vector<double> sums(dy.data.size());
    for (std::size_t i = 0; i < sums.size() && bias.shape[0] > 0; ++i)
      sums[i] = static_cast<double>(bias.data[i % bias.data.size()]);
    for_each([&](extent_t from, extent_t to, extent_t weight) { sums[at(to)] += x[from] * weights[weight]; });
    return sums;
  }
  std::vector<double> expected_input() const {
    std::vector<double> sums(x.data.size());
    for_each(
        [&](extent_t from, extent_t to, extent_t weight) { sums[at(from)] += dy[to] * weights[weight]; });
    return sums;
  }
  std::vector<double> expected_weights() const {
    std::vector<double> sums(weights.data.size());
    for_each([&](extent_t from, extent_t to, extent_t weight) { sums[at(weight)] += dy[to] * x[from]; });
    return sums;
  }
  /// f(element of x, of y, of the weights)
  template <class F>
  void for_each(F const& f) const {
    s.for_each_meeting([&](extent_t from, extent_t to, extent_t tap) {
      for (extent_t o = 0; o < out(); ++o)
        for (extent_t i = 0; i < in(); ++i)
          f(from * in() + i, to * out() + o, (o * s.w.size * s.w.size + tap) * in() + i);
    });
  }
};

template <class T>
void check(convolution_case<T> const& p) {
  INFO(name(p.s) << ", " << p.in() << " channels to " << p.out());
  auto const terms = static_cast<double>(p.weights.shape[1]);
  near(p.forward(), p.expected_forward(), 20 + terms);
  tensor<T, 4> const dx{p.x.shape, 5};
  tensor<accumulator_t<T>, 2> const dweights{p.weights.shape, 6};
  tensor<T, 2> const narrow{p.weights.shape, 7};
  auto const pixels = static_cast<double>(p.s.batch * p.s.height * p.s.width);
  for (auto how : {store::overwrite, store::accumulate}) {
    near(p.backward_input(how, dx), stored(how, dx, p.expected_input()), 20 + terms);
    near(p.backward_weights(how, dweights), stored(how, dweights, p.expected_weights()), 20 + pixels);
    near(p.backward_weights(how, narrow), stored(how, narrow, p.expected_weights()), 20 + pixels);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("convolution with any window", "", double, float, bf16) {
  auto const [in, out] = GENERATE(table<extent_t, extent_t>({{3, 16}, {1, 1}, {5, 7}, {32, 16}}));
  for (window w : {window{3, 1, 1},
                   {3, 2, 1},
                   {1, 1, 0},
                   {2, 2, 0},
                   {3, 1, 0},
                   {3, 1, 2},
                   {3, 3, 1},
                   {5, 2, 2},
                   {1, 2, 0},
                   {2, 3, 1}})
    for (extent_t height : {1, 4, 7})
      for (extent_t width : {2, 5, 8}) {
        images const s{2, height, width, w};
        if (s.possible())
          check(convolution_case<TestType>{s, in, out});
      }
}

TEMPLATE_TEST_CASE("convolution without a bias, and of no images", "", double, float, bf16) {
  check(convolution_case<TestType>{{2, 6, 5, {}}, 4, 8, false});
  for (extent_t stride : {1, 2}) check(convolution_case<TestType>{{0, 6, 5, {.stride = stride}}, 4, 8});
}

TEMPLATE_TEST_CASE("convolution in several pieces, with any number of threads", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  for (extent_t stride : {1, 2}) {
    convolution_case<TestType> const p{{2, 41, 40, {.stride = stride}}, 32, 24};
    check(p);
    same_with_any_threads([&] { return p.forward().data; });
    same_with_any_threads([&] { return p.backward_input(store::accumulate, p.x).data; });
    tensor<A, 2> const before{p.weights.shape, 4};
    same_with_any_threads([&] { return p.backward_weights(store::accumulate, before).data; });
  }
}
