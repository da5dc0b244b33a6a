// Steps on many devices: how to share them out, what that takes on each, and what share of the time goes into communication.
#pragma once
#include <yoke/train/fit.hpp>

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace yoke::train {

/// Devices and links, as one assumes them. The defaults are NVIDIA's figures for H100 and H200 SXM: 989 TFLOP/s dense in
/// bf16, NVLink with 450 GB/s in each direction; and one port of 400 Gb/s to each device between hosts.
struct cluster {
  int devices_per_host = 8;  // that are linked inside of a host
  double bandwidth_within_host =
      450e9;  // bytes a second and direction of one device to the others of its host
  double bandwidth_between_hosts = 50e9;  // … to devices of other hosts
  double latency = 20e-6;                 // seconds of one collective beyond its bytes
  double peak_flops = 989e12;             // operations a second, two to a multiply-add
  double utilization = 0.4;               // the share of it that a step reaches
};

/// Seconds of a step by what they are spent on; nothing is assumed to overlap.
struct step_seconds {
  double compute = 0, data_axis = 0, model_axis = 0;

  double total() const { return compute + data_axis + model_axis; }
  double communication_share() const { return (data_axis + model_axis) / total(); }
};

/// The neighbours of the model axis are on one host as far as it holds them; the data axis is within it when all are.
inline step_seconds predict(step_plan const& p, parallel::mesh_shape mesh, cluster const& c) {
  auto const seconds = [&](parallel::traffic const& t, bool within) {
    return t.bytes / (within ? c.bandwidth_within_host : c.bandwidth_between_hosts) +
           static_cast<double>(t.all_calls()) * c.latency;
  };
  return {.compute = 2 * static_cast<double>(p.multiply_adds) / (c.peak_flops * c.utilization),
          .data_axis = mesh.data > 1 ? seconds(p.data_axis, mesh.ranks() <= c.devices_per_host) : 0,
          .model_axis = mesh.model > 1 ? seconds(p.model_axis, mesh.model <= c.devices_per_host) : 0};
}

/// The best way found for so many devices.
struct cluster_step {
  parallel::mesh_shape mesh{};
  fitted_step step{};
  step_seconds time{};
};

/// Among meshes whose model axis is 1, 2, 4, … `most_model`, those that divide devices and batch, the step that fits
/// `budget` bytes of each device and is predicted to take least time; nothing where none fits. `fit(mesh, batch)` gives a
/// std::optional<fitted_step> for the batch of one rank.
template <class Fit>
std::optional<cluster_step> best_mesh(int devices, extent_t global_batch, int most_model, cluster const& c,
                                      Fit const& fit) {
  std::optional<cluster_step> best;
  for (int model = 1; model <= most_model && model <= devices; model *= 2) {
    parallel::mesh_shape const mesh{devices / model, model};
    if (devices % model != 0 || global_batch % mesh.data != 0)
      continue;
    std::optional<fitted_step> const step = fit(mesh, global_batch / mesh.data);
    if (!step)
      continue;
    cluster_step const found{mesh, *step, predict(step->plan, mesh, c)};
    if (!best || found.time.total() < best->time.total())
      best = found;
  }
  return best;
}

/// One line of a table, below cluster_header().
inline std::string cluster_line(int devices, std::string const& memory,
                                std::optional<cluster_step> const& found) {
  std::array<char, 200> line{};
  if (!found) {
    std::snprintf(line.data(), line.size(), "%7d %8s  no mesh fits\n", devices, memory.c_str());
    return line.data();
  }
  auto const& f = *found;
  auto const calls = [](parallel::traffic const& t) { return static_cast<long long>(t.all_calls()); };
  std::snprintf(line.data(), line.size(),
                "%7d %8s %7d x %-2d %7lld %-10s %11s %11s %7lld %11s %7lld %8.2f s %5.1f %%\n", devices,
                memory.c_str(), f.mesh.data, f.mesh.model, static_cast<long long>(f.step.micro_batch),
                std::string(name_of(f.step.remat)).c_str(),
                readable_bytes(static_cast<double>(f.step.plan.total())).c_str(),
                readable_bytes(f.step.plan.data_axis.bytes).c_str(), calls(f.step.plan.data_axis),
                readable_bytes(f.step.plan.model_axis.bytes).c_str(), calls(f.step.plan.model_axis),
                f.time.total(), 100 * f.time.communication_share());
  return line.data();
}

/// The heads of the columns: memory and bytes that each device sends are of one step.
inline std::string cluster_header() {
  std::array<char, 200> line{};
  std::snprintf(line.data(), line.size(), "%7s %8s %12s %7s %-10s %11s %11s %7s %11s %7s %10s %7s\n",
                "devices", "memory", "data x model", "micro", "remat", "per device", "data axis", "calls",
                "model axis", "calls", "step", "comm.");
  return line.data();
}

/// What a table assumes, in words.
inline std::string assumptions(cluster const& c) {
  std::array<char, 600> text{};
  std::snprintf(
      text.data(), text.size(),
      "assumed: %.0f TFLOP/s a device at %.0f %%; %d devices a host, linked with %.0f GB/s a device and "
      "direction; %.0f GB/s a device between hosts; %.0f us a collective; nothing overlaps; bytes are those "
      "that one device sends in a step, by algorithms that send least.\n",
      c.peak_flops / 1e12, 100 * c.utilization, c.devices_per_host, c.bandwidth_within_host / 1e9,
      c.bandwidth_between_hosts / 1e9, c.latency * 1e6);
  return text.data();
}

}  // namespace yoke::train
