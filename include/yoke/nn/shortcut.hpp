// The way around a block that changes the shape of its images.
#pragma once
#include <yoke/nn/linear.hpp>
#include <yoke/ops/window_pool.hpp>

#include <optional>

namespace yoke::nn {

/// Of a shortcut beside a block that may change width and extent.
struct shortcut_config {
  extent_t in, out;
  extent_t stride = 1;  // of a square window of that size
  window_pool_kind pool = window_pool_kind::max;
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// Half the height and width, or as many as the stride leaves.
inline value<4> downsample(auto& t, value<4> x, extent_t stride, window_pool_kind kind) {
  return stride == 1 ? x : ops::window_pool(t, x, kind, {.size = stride, .stride = stride, .padding = 0});
}

/// (batch, height, width, in) -> (batch, height / stride, width / stride, out): the pixels pooled, then a matrix where
/// the width changes.
struct shortcut {
  std::optional<linear> project;
  extent_t stride;
  window_pool_kind pool;

  shortcut(scope s, shortcut_config const& c) : stride{c.stride}, pool{c.pool} {
    if (c.in != c.out)
      project.emplace(
          s, linear_config{.in = c.in, .out = c.out, .split = gathered_rows(s, c.model_parallel, c.out)});
  }
  value<4> operator()(auto& t, value<4> x) const {
    x = downsample(t, x, stride, pool);
    return project ? (*project)(t, x) : x;
  }
};

}  // namespace yoke::nn
