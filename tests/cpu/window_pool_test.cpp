// Pooling under windows against plain loops in double precision; the same bits for any number of threads.
#include <yoke/cpu/window_pool.hpp>

#include "checks.hpp"
#include <limits>

using namespace checks;
using yoke::window;
using yoke::window_pool_kind;

namespace {

template <class T>
struct pool_case {
  window w;
  tensor<T, 4> x, y, dy;

  pool_case(window of, shape<4> images) : w{of}, x{images, 1}, y{output(of, images)}, dy{y.shape, 2} {}
  static shape<4> output(window w, shape<4> s) { return {{s[0], w.output(s[1]), w.output(s[2]), s[3]}}; }

  void forward(window_pool_kind kind) { window_pool_forward(device<T>(), kind, w, x.read(), y.view()); }

  /// Calls f(element of y, elements of x under its window).
  template <class F>
  void for_windows(F const& f) const {
    auto const [n, rows, columns, channels] = static_cast<std::array<extent_t, 4> const&>(y.shape);
    extent_t i = 0;
    for (extent_t b = 0; b < n; ++b)
      for (extent_t r = 0; r < rows; ++r)
        for (extent_t c = 0; c < columns; ++c)
          for (extent_t k = 0; k < channels; ++k) {
            std::vector<extent_t> under;
            for (auto v = r * w.stride - w.padding; v < r * w.stride - w.padding + w.size; ++v)
              for (auto u = c * w.stride - w.padding; u < c * w.stride - w.padding + w.size; ++u)
                if (v >= 0 && v < x.shape[1] && u >= 0 && u < x.shape[2])
                  under.push_back(((b * x.shape[1] + v) * x.shape[2] + u) * channels + k);
            f(i++, under);
          }
  }
};

window const windows[] = {{2, 2, 0}, {3, 2, 1}, {3, 1, 1}, {1, 2, 0}, {2, 3, 0}, {4, 3, 2}};

}  // namespace

TEMPLATE_TEST_CASE("window_pool and its gradient", "", double, float, bf16) {
  auto const w = GENERATE(from_range(windows));
  auto const channels = GENERATE(as<extent_t>{}, 1, 16, 21);
  auto const images = GENERATE_COPY(shape<4>{{2, 6, 8, channels}}, shape<4>{{1, 5, 9, channels}},
                                    shape<4>{{0, 4, 4, channels}}, shape<4>{{1, 2, 2, channels}});
  if (images[1] + 2 * w.padding < w.size)
    return;
  pool_case<TestType> p{w, images};
  for (auto kind : {window_pool_kind::max, window_pool_kind::mean}) {
    INFO("size " << w.size << " stride " << w.stride << " padding " << w.padding << " kind " << int(kind));
    p.forward(kind);
    std::vector<double> e, edx(p.x.data.size());
    p.for_windows([&](extent_t i, std::vector<extent_t> const& under) {
      auto most = under.front();
      double sum = 0;
      for (auto k : under) {
        sum += p.x[k];
        if (p.x[k] > p.x[most])
          most = k;
      }
      auto const places = static_cast<double>(w.size * w.size);
      e.push_back(kind == window_pool_kind::max ? p.x[most] : sum / places);
      if (kind == window_pool_kind::max)
        edx[at(most)] += p.dy[i];
      else
        for (auto k : under) edx[at(k)] += p.dy[i] / places;
    });
    near(p.y, e, 3);
    for (auto how : {store::overwrite, store::accumulate}) {
      tensor<TestType, 4> const before{p.x.shape, 3};
      auto dx = before;
      window_pool_backward(device<TestType>(), kind, w, p.x.read(), p.dy.read(), dx.view(), how);
      std::vector<double> stored_e;
      for (extent_t i = 0; i < before.shape.size(); ++i)
        stored_e.push_back(stored(how, before[i], edx[at(i)]));
      near(dx, stored_e, 5);
    }
  }
}

TEMPLATE_TEST_CASE("equal maxima: the first has the gradient", "", double, float, bf16) {
  auto const channels = GENERATE(as<extent_t>{}, 1, 40);
  pool_case<TestType> p{{2, 2, 0}, {{1, 2, 4, channels}}};
  float const pixels[] = {-1, 3, 5, 5, 3, 3, 5, -2};  // two rows of two windows
  for (extent_t i = 0; i < p.x.shape.size(); ++i)
    p.x.data[at(i)] = static_cast<TestType>(pixels[i / channels]);
  p.dy.data[0] =
      static_cast<TestType>(std::numeric_limits<float>::infinity());  // and nothing of it goes elsewhere
  tensor<TestType, 4> dx{p.x.shape, 3};
  window_pool_backward(device<TestType>(), window_pool_kind::max, p.w, p.x.read(), p.dy.read(), dx.view(),
                       store::overwrite);
  for (extent_t i = 0; i < dx.shape.size(); ++i) {
    auto const pixel = i / channels, channel = i % channels;
    CHECK(dx[i] == (pixel == 1 ? p.dy[channel] : pixel == 2 ? p.dy[channels + channel] : 0.0));
  }
}

TEMPLATE_TEST_CASE("a window with a NaN gives NaN, and its gradient goes there; infinities are numbers", "",
                   double, float, bf16) {
  auto const place = GENERATE(as<extent_t>{}, 0, 1, 2, 3);
  auto const channels = GENERATE(as<extent_t>{}, 1, 33);
  auto const kind = GENERATE(window_pool_kind::max, window_pool_kind::mean);
  pool_case<TestType> p{{2, 2, 0}, {{1, 2, 2, channels}}};
  for (extent_t k = 0; k < channels; ++k)
    p.x.data[at(place * channels + k)] = static_cast<TestType>(std::numeric_limits<float>::quiet_NaN());
  p.forward(kind);
  for (extent_t k = 0; k < channels; ++k) CHECK(is_nan(p.y[k]));
  if (kind == window_pool_kind::mean)
    return;
  tensor<TestType, 4> dx{p.x.shape};
  window_pool_backward(device<TestType>(), kind, p.w, p.x.read(), p.dy.read(), dx.view(), store::overwrite);
  for (extent_t i = 0; i < dx.shape.size(); ++i)
    CHECK(dx[i] == (i / channels == place ? p.dy[i % channels] : 0.0));

  auto const infinity = std::numeric_limits<float>::infinity();
  for (auto& v : p.x.data) v = static_cast<TestType>(-infinity);
  p.forward(kind);
  for (extent_t k = 0; k < channels; ++k) CHECK(p.y[k] == -static_cast<double>(infinity));
}

TEMPLATE_TEST_CASE("window_pool gives the same bits for any number of threads", "", double, float, bf16) {
  auto const kind = GENERATE(window_pool_kind::max, window_pool_kind::mean);
  pool_case<TestType> p{{3, 2, 1}, {{3, 17, 18, 70}}};
  tensor<TestType, 4> dx{p.x.shape};
  same_with_any_threads([&] { return p.forward(kind), p.y.data; });
  same_with_any_threads([&] {
    window_pool_backward(device<TestType>(), kind, p.w, p.x.read(), p.dy.read(), dx.view(), store::overwrite);
    return dx.data;
  });
}
