// yoke-plan: what a training step would take, before anything is bought, rented or waited for. It runs the step's own
// code on a device without memory, so that the figures are those of the real step.
#include <yoke/contrastive/basic.hpp>
#include <yoke/io/file.hpp>
#include <yoke/train/cluster_plan.hpp>
#include <yoke/train/open_clip_model.hpp>
#include <yoke/train/plan_report.hpp>

#include "options.hpp"
#include "tools.hpp"
#include <CLI/CLI.hpp>

namespace {

using namespace yoke;

struct settings {
  std::string model = "basic_l", precision = "bf16", optimizer = "adafactorw", remat = "auto", mesh = "1x1",
              model_parallel = "tensor", memory;
  extent_t batch = 256, micro_batch = 0, caption_length = 0;
  bool compact = false;
  std::string json, svg;
  std::vector<int> devices;
  std::vector<std::string> memories{"80GB", "141GB"};
  int most_model = 8;
  train::cluster cluster{};

  nn::model_parallel how(int model_ranks) const {
    return model_ranks == 1             ? nn::model_parallel::none
           : model_parallel == "tensor" ? nn::model_parallel::tensor
                                        : nn::model_parallel::gathered;
  }
};

extent_t parameters_below(parameter_list const& list, std::string_view tower) {
  extent_t n = 0;
  for (auto const& p : list.infos())
    if (p.name.starts_with(tower))
      n += p.size();
  return n;
}

/// The step that the settings describe, on a mesh.
train::planned_step step_of(settings const& s, parallel::mesh_shape mesh, towers::image_extent side,
                            extent_t longest_caption) {
  if (s.batch % mesh.data != 0)
    throw io::error("--batch", std::to_string(s.batch),
                    "is a multiple of the " + std::to_string(mesh.data) + " devices of the data axis");
  train::planned_step step{.batch = s.batch / mesh.data,
                           .image = {{side.height, side.width, 3}},
                           .caption_length = s.caption_length > 0 ? s.caption_length : longest_caption,
                           .mesh = mesh};
  if (s.micro_batch > 0 && step.batch % s.micro_batch != 0)
    throw io::error("--micro-batch", std::to_string(s.micro_batch),
                    "does not divide the " + std::to_string(step.batch) + " pairs of a device");
  if (step.caption_length > longest_caption)
    throw io::error("--caption-length", std::to_string(step.caption_length),
                    "is at most the model's " + std::to_string(longest_caption));
  if (s.optimizer == "adafactorw")
    step.optimizer = optim::adafactor_w_options{};
  else if (s.compact)
    throw io::error("--optimizer", s.optimizer,
                    "keeps master values in float; --compact goes with adafactorw");
  step.step.micro_batch = s.micro_batch;
  return step;
}

std::optional<rematerialize> policy_of(settings const& s) {
  for (auto const p : train::every_policy)
    if (s.remat == train::name_of(p))
      return p;
  return std::nullopt;
}

template <class T, class Model>
void plan(settings const& s, parallel::mesh_shape across, Model const& model, parameter_list const& list,
          towers::image_extent side, extent_t longest_caption) {
  auto const budget = tools::bytes_of("--memory", s.memory);
  auto step = step_of(s, across, side, longest_caption);
  auto policy = policy_of(s);

  auto const without_budget = std::size_t{1} << 62;
  if (budget == 0) {
    step.step.micro_batch = s.micro_batch > 0 ? s.micro_batch : step.batch;
    policy = policy.value_or(rematerialize::nothing);
  }
  auto const chosen = train::fit_step<T>(model, list, step, budget > 0 ? budget : without_budget, policy);
  step.step.micro_batch = chosen.micro_batch;
  step.step.remat = chosen.remat;
  std::vector<dry::memory_sample> timeline;
  auto const result = train::plan_step<T>(model, list, step, &timeline);

  if (s.json != "-") {
    std::printf("%s: %.2f M parameters (image %.2f M, text %.2f M), %s%s, %s\n", s.model.c_str(),
                static_cast<double>(list.count()) / 1e6,
                static_cast<double>(parameters_below(list, "image.")) / 1e6,
                static_cast<double>(parameters_below(list, "text.")) / 1e6, s.precision.c_str(),
                s.compact ? ", compact" : "", s.optimizer.c_str());
    std::printf("batch %lld on %d x %d devices, micro-batches of %lld, rematerialised: %s\n",
                static_cast<long long>(s.batch), across.data, across.model,
                static_cast<long long>(chosen.micro_batch),
                std::string(train::name_of(chosen.remat)).c_str());
    std::printf("on each device:\n%s", train::plan_table(result).c_str());
  }
  io::json j = train::plan_json(result);
  j["model"] = s.model;
  j["batch"] = s.batch;
  j["data_axis"] = across.data;
  j["model_axis"] = across.model;
  j["micro_batch"] = chosen.micro_batch;
  j["rematerialize"] = std::string(train::name_of(chosen.remat));
  if (budget > 0) {
    step.step.micro_batch = 0;
    auto const most = train::fit_step<T>(model, list, step, budget, chosen.remat).micro_batch;
    j["budget"] = budget;
    j["largest_micro_batch"] = most;
    if (s.json != "-")
      std::printf("largest micro-batch within %s: %lld\n",
                  train::readable_bytes(static_cast<double>(budget)).c_str(), static_cast<long long>(most));
  }
  if (s.json == "-")
    std::printf("%s\n", j.dump(2).c_str());
  else if (!s.json.empty())
    io::write_file_atomically(s.json, j.dump(2) + "\n");
  if (!s.svg.empty())
    io::write_file_atomically(s.svg, train::plan_picture(result, timeline, budget));
}

/// Calls f(model, list, image size, longest caption) with the model of the first of so many ranks of a model axis.
template <class F>
void with_model(settings const& s, int model_ranks, F const& f) {
  parameter_list list{model_share{0, model_ranks}};
  if (auto basic = contrastive::basic_preset(s.model)) {
    auto const model = contrastive::basic(scope{list}, basic->sharded(s.how(model_ranks)));
    f(model, list, basic->image.image_size, basic->text.context_length);
  } else {
    auto clip = train::clip_model_config(s.model);
    auto const model = contrastive::clip(scope{list}, clip.sharded(s.how(model_ranks)));
    f(model, list, clip.image.image_size, clip.text.context_length);
  }
}

/// A table: numbers of devices, each with each memory.
template <class T>
void plan_clusters(settings const& s) {
  std::vector<std::size_t> budgets;
  for (auto const& memory : s.memories) budgets.push_back(tools::bytes_of("--device-memory", memory));
  std::printf(
      "%s, %s%s, %s, a batch of %lld pairs of %s\n%s%s", s.model.c_str(), s.precision.c_str(),
      s.compact ? ", compact" : "", s.optimizer.c_str(), static_cast<long long>(s.batch),
      s.caption_length > 0 ? (std::to_string(s.caption_length) + " tokens").c_str() : "full-length captions",
      train::assumptions(s.cluster).c_str(), train::cluster_header().c_str());
  for (auto const n : s.devices)
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      auto const fit = [&](parallel::mesh_shape mesh, extent_t local) {
        std::optional<train::fitted_step> found;
        if (s.micro_batch > 0 && local % s.micro_batch != 0)
          return found;
        try {
          with_model(s, mesh.model, [&](auto const& model, auto const& list, auto side, extent_t longest) {
            found =
                train::fit_step<T>(model, list, step_of(s, mesh, side, longest), budgets[i], policy_of(s));
          });
        } catch (train::budget_too_small const&) {  // then another mesh
        } catch (precondition_error const&) {       // nor do so many ranks share this model: its heads, say
        }
        return found;
      };
      auto const best = train::best_mesh(n, s.batch, s.most_model, s.cluster, fit);
      std::printf("%s", train::cluster_line(n, s.memories[i], best).c_str());
      std::fflush(stdout);
    }
}

template <class T>
void plan(settings const& s) {
  if (!s.devices.empty())
    return plan_clusters<T>(s);
  auto const mesh = tools::mesh_of(s.mesh);
  with_model(s, mesh.model, [&](auto const& model, auto const& list, auto side, extent_t longest) {
    plan<T>(s, mesh, model, list, side, longest);
  });
}

}  // namespace

int main(int count, char** arguments) {
  settings s;
  CLI::App app{"Memory, arithmetic and communication of a training step"};
  CLI::Validator const positive{CLI::PositiveNumber};
  app.add_option("--model", s.model,
                 "basic_s, basic_m, basic_l, basic_cifar, basic_tiny, a CLIP preset such as ViT-B-32, or the "
                 "path of an "
                 "OpenCLIP model configuration")
      ->capture_default_str();
  app.add_option("--batch", s.batch, "Pairs of a step, on all devices together")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--micro-batch", s.micro_batch,
                 "Pairs of a device that are in the towers at a time; 0: all, or what fits --memory")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--caption-length", s.caption_length,
                 "Tokens of each caption; 0: as many as the model takes")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--remat", s.remat, "What is computed again instead of kept; auto: what fits --memory")
      ->check(CLI::IsMember({"auto", "nothing", "cheap", "blocks", "everything"}))
      ->capture_default_str();
  app.add_option("--optimizer", s.optimizer)
      ->check(CLI::IsMember({"adamw", "adafactorw"}))
      ->capture_default_str();
  app.add_option("--precision", s.precision)->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  app.add_flag("--compact", s.compact, "Master values and gradients of matrices in the towers' precision");
  auto* const mesh = app.add_option("--mesh", s.mesh, "Devices along the data axis x along the model axis")
                         ->capture_default_str();
  app.add_option("--model-parallel", s.model_parallel, "How the devices of the model axis share the towers")
      ->check(CLI::IsMember({"tensor", "gathered"}))
      ->capture_default_str();
  auto* const memory = app.add_option("--memory", s.memory, "Budget of one device, such as 23GiB");
  auto* const json =
      app.add_option("--json", s.json, "File for the figures; - for standard output, instead of the table");
  auto* const svg = app.add_option("--svg", s.svg, "File for a picture of the memory over the step");
  auto* const clusters = app.add_option_group("A table for many devices");
  clusters
      ->add_option("--devices", s.devices,
                   "Numbers of devices, such as 8,64,512,2048: the best mesh for each")
      ->delimiter(',')
      ->check(positive)
      ->excludes(mesh, memory, json, svg);
  clusters->add_option("--device-memory", s.memories, "Budgets of one device")
      ->delimiter(',')
      ->capture_default_str();
  clusters->add_option("--most-model", s.most_model, "Longest model axis that is tried")
      ->check(positive)
      ->capture_default_str();
  clusters->add_option("--host-devices", s.cluster.devices_per_host, "Devices of a host")
      ->check(positive)
      ->capture_default_str();
  clusters
      ->add_option("--host-link", s.cluster.bandwidth_within_host,
                   "Bytes a second and direction of a device within its host")
      ->check(positive)
      ->capture_default_str();
  clusters
      ->add_option("--link", s.cluster.bandwidth_between_hosts,
                   "Bytes a second and direction of a device to other hosts")
      ->check(positive)
      ->capture_default_str();
  clusters->add_option("--latency", s.cluster.latency, "Seconds of a collective beyond its bytes")
      ->capture_default_str();
  auto* const peak =
      clusters
          ->add_option("--peak", s.cluster.peak_flops,
                       "Operations a second of a device; without it 989e12 in bf16, 67e12 in fp32")
          ->check(positive);
  clusters->add_option("--share-of-peak", s.cluster.utilization, "That a step reaches")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  CLI11_PARSE(app, count, arguments);
  if (s.precision == "fp32" && peak->count() == 0)
    s.cluster.peak_flops = 67e12;  // NVIDIA's figure for H100 and H200 SXM without tensor cores
  return tools::run("yoke-plan", [&] {
    if (s.precision == "bf16")
      s.compact ? plan<compact<dry::context<bf16>>>(s) : plan<bf16>(s);
    else
      s.compact ? plan<compact<dry::context<float>>>(s) : plan<float>(s);
  });
}
