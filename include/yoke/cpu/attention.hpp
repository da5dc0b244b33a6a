// Multi-head self-attention over segments. Work is shared out by (segment, head): what a segment
// gives depends neither on its neighbours nor on the number of threads.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace yoke::cpu {

namespace detail {

/// Row i of the logits of one head, in accumulators; returns how many keys it sees.
template <class T, class A>
extent_t attention_logits(T const* qkv, extent_t stride, extent_t head_width, T const* bias,
                          extent_t bias_stride, bool causal, extent_t length, extent_t i,
                          A* logits) {
  auto const seen = causal ? i + 1 : length;
  auto const scale = A{1} / std::sqrt(static_cast<A>(head_width));
  auto const* const q = qkv + i * stride;
  for (extent_t j = 0; j < seen; ++j) {
    auto const* const k = qkv + stride / 3 + j * stride;
    A sum = 0;
    for (extent_t c = 0; c < head_width; ++c) sum += static_cast<A>(q[c]) * static_cast<A>(k[c]);
    logits[j] = sum * scale;
    if (bias != nullptr)
      logits[j] += static_cast<A>(bias[i * bias_stride + j]);
  }
  return seen;
}

inline void expect_attention(attention_shape s, segments const& runs, shape<2> qkv, shape<3> bias,
                             shape<2> out, shape<2> lse) {
  expects(s.heads > 0 && out[1] % s.heads == 0, "attention: the width is a multiple of the heads");
  expects(qkv[1] == 3 * out[1], "attention: qkv is (rows, 3 width)");
  expects(qkv[0] == runs.rows && out[0] == runs.rows, "attention: as many rows as the segments");
  expects(lse[0] == s.heads && lse[1] == runs.rows, "attention: log-sum-exp is (heads, rows)");
  expects(bias[0] == 0 || (bias[0] == s.heads && bias[1] == bias[2] && bias[1] >= runs.longest),
          "attention: bias is (heads, longest, longest)");
}

}  // namespace detail

/// out = softmax(q k^T / sqrt(head width) + bias) v for each head of each segment.
/// qkv (rows, 3 width) = [q | k | v]; bias (heads, longest, longest) optional -> out (rows, width)
/// and the logarithm of each row's sum of exponentials (heads, rows).
template <class T>
void attention_forward(context<T>&, attention_shape shape, segments const& runs,
                       view<std::type_identity_t<T> const, 2> qkv,
                       view<std::type_identity_t<T> const, 3> bias,
                       view<std::type_identity_t<T>, 2> out,
                       view<accumulator_t<std::type_identity_t<T>>, 2> lse) {
  using A = accumulator_t<T>;
  detail::expect_attention(shape, runs, qkv.shape, bias.shape, out.shape, lse.shape);
  auto const width = out.extent(1), head_width = width / shape.heads;
  parallel_for(runs.count * shape.heads, 1, [&](extent_t first, extent_t last) {
    thread_local std::vector<A> p;
    p.resize(static_cast<std::size_t>(runs.longest));
    for (auto item = first; item < last; ++item) {
      auto const s = item / shape.heads, h = item % shape.heads;
      auto const begin = runs.begin(s), length = runs.length(s);
      auto const* const x = qkv.data + begin * 3 * width + h * head_width;
      auto const side = bias.extent(1);
      auto const* const b = bias.extent(0) == 0 ? nullptr : bias.data + h * side * side;
      for (extent_t i = 0; i < length; ++i) {
        auto const seen = detail::attention_logits(x, 3 * width, head_width, b, side, shape.causal,
                                                   length, i, p.data());
        auto const most = *std::max_element(p.data(), p.data() + seen);
        A sum = 0;
        for (extent_t j = 0; j < seen; ++j) {
          auto& e = p[static_cast<std::size_t>(j)];
          e = std::exp(e - most);
          sum += e;
        }
        lse.data[h * runs.rows + begin + i] = most + std::log(sum);
        for (extent_t c = 0; c < head_width; ++c) {
          A y = 0;
          for (extent_t j = 0; j < seen; ++j)
            y += p[static_cast<std::size_t>(j)] * static_cast<A>(x[2 * width + j * 3 * width + c]);
          out.data[(begin + i) * width + h * head_width + c] = static_cast<T>(y / sum);
        }
      }
    }
  });
}

/// The gradient of attention_forward: qkv, bias, its out and log-sum-exp, dout (rows, width) ->
/// dqkv (rows, 3 width) with `how`, dbias (heads, longest, longest; optional) with `bias_how`,
/// summed over the segments in accumulators.
template <class T>
void attention_backward(context<T>&, attention_shape shape, segments const& runs,
                        view<std::type_identity_t<T> const, 2> qkv,
                        view<std::type_identity_t<T> const, 3> bias,
                        view<std::type_identity_t<T> const, 2> out,
                        view<accumulator_t<std::type_identity_t<T>> const, 2> lse,
                        view<std::type_identity_t<T> const, 2> dout,
                        view<std::type_identity_t<T>, 2> dqkv, store how,
                        view<std::type_identity_t<T>, 3> dbias, store bias_how) {
  using A = accumulator_t<T>;
  detail::expect_attention(shape, runs, qkv.shape, bias.shape, out.shape, lse.shape);
  expects(dout.shape == out.shape && dqkv.shape == qkv.shape,
          "attention_backward: gradients have the shapes of their values");
  expects(dbias.extent(0) == 0 || dbias.shape == bias.shape,
          "attention_backward: dbias has the shape of bias");
  auto const width = out.extent(1), head_width = width / shape.heads;
  auto const side = bias.extent(1);
  auto const scale = A{1} / std::sqrt(static_cast<A>(head_width));
  auto const at = [](extent_t i) { return static_cast<std::size_t>(i); };

  parallel_for(shape.heads, 1, [&](extent_t first, extent_t last) {
    thread_local std::vector<A> p, sums, dx;
    for (auto h = first; h < last; ++h) {
      p.resize(at(runs.longest));
      sums.assign(at(dbias.extent(0) == 0 ? 0 : side * side), A{0});
      for (extent_t s = 0; s < runs.count; ++s) {
        auto const begin = runs.begin(s), length = runs.length(s);
        auto const* const x = qkv.data + begin * 3 * width + h * head_width;
        auto const* const b = bias.extent(0) == 0 ? nullptr : bias.data + h * side * side;
        dx.assign(at(3 * length * head_width), A{0});
        for (extent_t i = 0; i < length; ++i) {
          auto const seen = detail::attention_logits(x, 3 * width, head_width, b, side,
                                                     shape.causal, length, i, p.data());
          auto const row = (begin + i) * width + h * head_width;
          A along = 0;
          for (extent_t c = 0; c < head_width; ++c)
            along += static_cast<A>(out.data[row + c]) * static_cast<A>(dout.data[row + c]);
          for (extent_t j = 0; j < seen; ++j) {
            auto const e = std::exp(p[at(j)] - lse.data[h * runs.rows + begin + i]);
            A dp = 0;
            for (extent_t c = 0; c < head_width; ++c) {
              auto const dy = static_cast<A>(dout.data[row + c]);
              dp += dy * static_cast<A>(x[2 * width + j * 3 * width + c]);
              dx[at((2 * length + j) * head_width + c)] += e * dy;
            }
            auto const ds = e * (dp - along);
            if (!sums.empty())
              sums[at(i * side + j)] += ds;
            for (extent_t c = 0; c < head_width; ++c) {
              dx[at(i * head_width + c)] +=
                  ds * scale * static_cast<A>(x[width + j * 3 * width + c]);
              dx[at((length + j) * head_width + c)] +=
                  ds * scale * static_cast<A>(x[i * 3 * width + c]);
            }
          }
        }
        for (extent_t part = 0; part < 3; ++part)
          for (extent_t i = 0; i < length; ++i)
            for (extent_t c = 0; c < head_width; ++c) {
              auto& d = dqkv.data[(begin + i) * 3 * width + part * width + h * head_width + c];
              auto const g = dx[at((part * length + i) * head_width + c)];
              d = static_cast<T>(how == store::overwrite ? g : static_cast<A>(d) + g);
            }
      }
      for (std::size_t e = 0; e < sums.size(); ++e) {
        auto& d = dbias.data[h * side * side + static_cast<extent_t>(e)];
        d = static_cast<T>(bias_how == store::overwrite ? sums[e] : static_cast<A>(d) + sums[e]);
      }
    }
  });
}

}  // namespace yoke::cpu
