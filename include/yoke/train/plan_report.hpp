// A plan to look at: a table for people, JSON for programs, a picture of the memory over a step.
#pragma once
#include <yoke/io/json.hpp>
#include <yoke/train/fit.hpp>
#include <yoke/train/svg_file.hpp>
#include <yoke/train/svg_plot.hpp>

#include <array>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace yoke::train {

/// The bytes of a plan by role, in the order of a table.
inline std::array<std::pair<char const*, std::size_t>, 6> roles_of(step_plan const& p) {
  return {{{"master values", p.master},
           {"compute copy", p.compute_copy},
           {"gradients", p.parameter_gradients},
           {"optimiser state", p.optimizer_state},
           {"activations", p.activations},
           {"activation gradients", p.gradients}}};
}

/// Lines of the bytes of one device by role, multiply-adds, and bytes sent.
inline std::string plan_table(step_plan const& p) {
  std::string text;
  std::array<char, 96> line{};
  auto const add = [&](char const* what, std::string const& value) {
    std::snprintf(line.data(), line.size(), "  %-22s %14s\n", what, value.c_str());
    text += line.data();
  };
  for (auto const& [role, bytes] : roles_of(p)) add(role, readable_bytes(static_cast<double>(bytes)));
  add("together", readable_bytes(static_cast<double>(p.total())));
  std::array<char, 32> number{};
  std::snprintf(number.data(), number.size(), "%.4g", static_cast<double>(p.multiply_adds));
  add("multiply-adds", number.data());
  add("sent along data axis", readable_bytes(p.data_axis.bytes));
  add("sent along model axis", readable_bytes(p.model_axis.bytes));
  return text;
}

/// The same figures in bytes, by name.
inline io::json plan_json(step_plan const& p) {
  io::json j;
  j["parameters"] = p.parameters;
  auto& bytes = j["bytes"];
  bytes["master"] = p.master;
  bytes["compute_copy"] = p.compute_copy;
  bytes["gradients"] = p.parameter_gradients;
  bytes["optimizer"] = p.optimizer_state;
  bytes["activations"] = p.activations;
  bytes["activation_gradients"] = p.gradients;
  bytes["total"] = p.total();
  j["multiply_adds"] = p.multiply_adds;
  for (auto const& [name, traffic] :
       {std::pair{"data_axis", &p.data_axis}, std::pair{"model_axis", &p.model_axis}}) {
    auto& axis = j["sent"][name];
    axis["bytes"] = traffic->bytes;
    for (std::size_t i = 0; i < traffic->calls.size(); ++i)
      axis["calls"][parallel::collective_names[i]] = traffic->calls[i];
  }
  return j;
}

/// Bytes in use over the kernels of a step, as an .svg file: what is there throughout, and with it the activations, and
/// with both their gradients. `budget`: a line across, unless it is 0.
inline std::string plan_picture(step_plan const& p, std::span<dry::memory_sample const> timeline,
                                std::size_t budget = 0) {
  constexpr double gibibyte = 1 << 30;
  auto const persistent = static_cast<double>(p.persistent) / gibibyte;
  std::vector<named_curve> curves{
      {"with activation gradients"}, {"with activations"}, {"parameters and optimiser"}};
  for (std::size_t i = 0; i < timeline.size(); ++i) {
    auto const activations = static_cast<double>(timeline[i].activations) / gibibyte;
    auto const gradients = static_cast<double>(timeline[i].gradients) / gibibyte;
    std::array<double, 3> const heights{persistent + activations + gradients, persistent + activations,
                                        persistent};
    for (std::size_t k = 0; k < curves.size(); ++k) {
      curves[k].points.x.push_back(static_cast<double>(i));
      curves[k].points.y.push_back(heights[k]);
    }
  }
  line_plot_options options{.x_label = "changes of memory in use during a step; GiB",
                            .description = "Memory in use over a training step, in GiB"};
  if (budget > 0) {
    options.reference = static_cast<double>(budget) / gibibyte;
    options.reference_label = "budget";
  }
  return svg_file(line_plot(curves, options));
}

}  // namespace yoke::train
