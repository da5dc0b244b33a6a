// N ranks are one: five steps of training on meshes of four ranks end in the parameters that one rank ends in. The ranks
// are threads, processes that meet over sockets, or mpirun's:
//
//   ranks_main threads | sockets          starts four
//   mpirun -n 4 ranks_main mpi
#include <yoke/contrastive/basic.hpp>
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/tcp.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/trainer.hpp>
#ifdef YOKE_TESTS_MPI
#include <yoke/parallel/mpi.hpp>
#endif

#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

using namespace yoke;

constexpr int count = 4;
constexpr extent_t batch = 8, side = 8, context_length = 7, steps = 5;

/// What a case varies.
struct trial {
  std::string name;
  bool basic = false;
  parallel::mesh_shape mesh{};
  nn::model_parallel how = nn::model_parallel::none;
  extent_t micro_batch = 0;  // of a rank
  rematerialize remat = rematerialize::nothing;
  bool adafactor = false;
};

std::vector<trial> trials() {
  using enum nn::model_parallel;
  return {
      {"ViT on 4 x 1", false, {4, 1}, none, 1, rematerialize::blocks, false},
      {"ViT on 1 x 4, tensor", false, {1, 4}, tensor, 4, rematerialize::cheap, false},
      {"ViT on 1 x 4, gathered", false, {1, 4}, gathered, 0, rematerialize::nothing, true},
      {"ViT on 2 x 2, tensor", false, {2, 2}, tensor, 2, rematerialize::blocks, true},
      {"ViT on 2 x 2, gathered", false, {2, 2}, gathered, 2, rematerialize::everything, false},
      {"CoAtNet on 4 x 1", true, {4, 1}, none, 2, rematerialize::nothing, true},
      {"CoAtNet on 1 x 4, tensor", true, {1, 4}, tensor, 4, rematerialize::blocks, true},
      {"CoAtNet on 2 x 2, gathered", true, {2, 2}, gathered, 2, rematerialize::cheap, false},
  };
}

contrastive::clip_config clip(trial const& t) {
  contrastive::clip_config c{.image = {.image_size = side,
                                       .patch_size = 4,
                                       .width = 16,
                                       .layers = 2,
                                       .heads = 4,
                                       .embedding = 12,
                                       .dropout = 0.1f,
                                       .stochastic_depth = 0.2f},
                             .text = {.vocabulary = 40,
                                      .context_length = context_length,
                                      .width = 16,
                                      .layers = 2,
                                      .heads = 4,
                                      .embedding = 12,
                                      .dropout = 0.1f}};
  return c.sharded(t.how);
}
contrastive::basic_config basic(trial const& t) {
  constexpr auto mbconv = towers::coatnet_block::mbconv, attention = towers::coatnet_block::attention;
  contrastive::basic_config c{.image = {.image_size = side,
                                        .stem_width = 4,
                                        .stages = {{mbconv, 1, 8, 1}, {attention, 2, 16}},
                                        .head_width = 4,
                                        .stochastic_depth = 0.2f},
                              .text = clip(t).text};
  c.text.embedding = 16;
  c.text.pool = towers::text_pool::mean;
  c.text.causal = false;
  return c.sharded(t.how);
}

/// A made-up batch.
struct samples {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> ids, offsets{0};

  explicit samples(std::uint64_t seed) : pixels(static_cast<std::size_t>(batch * side * side * 3)) {
    random_sequence random{seed};
    for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
    for (extent_t i = 0; i < batch; ++i) {
      for (auto n = 1 + random.below(context_length); n > 0; --n)
        ids.push_back(static_cast<std::int32_t>(random.below(40)));
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
  }
};

/// Parameters by name, whole, and the loss of each step.
struct outcome {
  std::map<std::string, std::vector<double>> parameters;
  std::vector<double> losses;
};

/// Five steps of one rank's part; the shares that the first data group holds go into `to`.
template <class Build>
void train_part(parallel::any all, trial const& t, Build const& build, outcome& to, std::mutex& mutex) {
  parallel::mesh mesh{all, t.mesh};
  parameter_list list{model_share{mesh.model().rank(), mesh.model().size()}};
  auto const model = build(scope{list});
  cpu::context<double> device{mebibytes(16), mebibytes(8)};
  train::optimizer_options optimizer = optim::adam_w_options{};
  if (t.adafactor)
    // Some gradients, such as those of keys' biases, are nothing but rounding, which must not be scaled up to one.
    optimizer = optim::adafactor_w_options{.epsilon = 1e-8, .smallest_factored = 8};
  train::trainer trainer{
      device,
      mesh.data(),
      model,
      list,
      {.micro_batch = t.micro_batch,
       .optimizer = optimizer,
       .schedule = {.peak = 1e-2, .warmup = 2, .steps = 20},
       .clip_norm = 0.5,
       .seed = 7,
       .remat = t.remat,
       .ranks = {.model_axis = mesh.model_axis(), .bucket_bytes = 4096, .compare_every = 2}}};
  auto const local = batch / t.mesh.data, first = local * mesh.data().rank();
  std::vector<double> losses;
  for (extent_t i = 0; i < steps; ++i) {
    samples const s{static_cast<std::uint64_t>(100 + i)};
    tokens const captions{segments::packed({s.offsets.data(), {{batch + 1}}}, context_length),
                          {s.ids.data(), {{static_cast<extent_t>(s.ids.size())}}}};
    view<std::uint8_t const, 4> const images{s.pixels.data(), {{batch, side, side, 3}}};
    losses.push_back(trainer
                         .step(contrastive::pixel_batch{.pixels = slice(images, first, local)},
                               contrastive::caption_batch{captions.slice(first, local)})
                         .loss);
  }
  std::lock_guard const lock{mutex};
  to.losses = losses;
  for (auto const& p : list.infos())
    trainer.store().master_block().visit(p, [&](view<double, 1> v) {
      auto& whole = to.parameters[p.name];
      extent_t n = 1;
      for (auto const d : p.whole()) n *= d;
      whole.resize(static_cast<std::size_t>(n));
      p.for_each_run_of_whole([&](extent_t at, extent_t here, extent_t size) {
        std::copy_n(v.data + here, size, whole.data() + at);
      });
    });
}

void train_part(parallel::any all, trial const& t, outcome& to, std::mutex& mutex) {
  if (t.basic)
    train_part(
        all, t, [&](scope s) { return contrastive::basic(s, basic(t)); }, to, mutex);
  else
    train_part(
        all, t, [&](scope s) { return contrastive::clip(s, clip(t)); }, to, mutex);
}

/// The greatest difference from what one rank finds, relative to the parameter's largest element. Each process compares
/// the shares that it has.
double difference(outcome const& found, trial t) {
  t.mesh = {1, 1};
  t.how = nn::model_parallel::none;
  t.micro_batch = 0;
  t.remat = rematerialize::nothing;
  parallel::solo solo;
  outcome one;
  std::mutex mutex;
  train_part(parallel::any{solo}, t, one, mutex);
  double worst = 0;
  for (std::size_t i = 0; i < one.losses.size(); ++i)
    worst = std::max(worst, std::abs(one.losses[i] - found.losses[i]) / std::abs(one.losses[i]));
  for (auto const& [name, values] : one.parameters) {
    auto const& others = found.parameters.at(name);
    double largest = 1;
    for (auto const v : values) largest = std::max(largest, std::abs(v));
    for (std::size_t i = 0; i < values.size(); ++i)
      worst = std::max(worst, std::abs(values[i] - others[i]) / largest);
  }
  return worst;
}

/// Whether a trial's difference is rounding's; says so.
bool report(trial const& t, double worst, char const* ranks) {
  auto const right = worst <= 1e-12;
  std::printf("%-28s by %-8s %.1e  %s\n", t.name.c_str(), ranks, worst, right ? "ok" : "WRONG");
  std::fflush(stdout);
  return right;
}

bool by_threads() {
  bool right = true;
  for (auto const& t : trials()) {
    outcome found;
    std::mutex mutex;
    parallel::threads_group{count}.run(
        [&](parallel::threads& ranks) { train_part(parallel::any{ranks}, t, found, mutex); });
    right = report(t, difference(found, t), "threads") && right;
  }
  return right;
}

/// Of processes, each of which has its own shares: they give theirs to the others, share by share.
bool by_processes(parallel::any all, char const* name) {
  bool right = true;
  for (auto const& t : trials()) {
    outcome found;
    std::mutex mutex;
    train_part(all, t, found, mutex);
    if (t.mesh.model >
        1) {  // elements that a rank has not are zero, those of one model are on model-axis neighbours
      auto model = split(all, all.rank() / t.mesh.model);
      parameter_list list{model_share{model.rank(), model.size()}};
      if (t.basic)
        contrastive::basic(scope{list}, basic(t));
      else
        contrastive::clip(scope{list}, clip(t));
      for (auto const& p : list.infos())
        if (p.is_sharded()) {
          auto& whole = found.parameters.at(p.name);
          all_reduce(model, view<double, 1>{whole.data(), {{static_cast<extent_t>(whole.size())}}});
        }
    }
    auto worst = difference(found, t);
    all_reduce(all, view<double, 1>{&worst, {{1}}}, parallel::reduction::maximum);
    if (all.rank() == 0)
      report(t, worst, name);
    right = worst <= 1e-12 && right;
  }
  return right;
}

bool by_sockets() {
  std::vector<pid_t> children;
  auto const port = 20000 + static_cast<int>(::getpid() % 12000);
  for (int r = 0; r < count; ++r) {
    auto const child = ::fork();
    if (child == 0) {
      try {
        bool right = false;
        {  // ranks say farewell
          parallel::rendezvous meeting{
              {.rank = r, .size = count, .local_rank = r, .host = "127.0.0.1", .port = port}};
          parallel::tcp ranks{meeting};
          right = by_processes(parallel::any{ranks}, "sockets");
        }
        ::_exit(right ? 0 : 1);
      } catch (std::exception const& e) {
        std::fprintf(stderr, "rank %d: %s\n", r, e.what());
        ::_exit(1);
      }
    }
    children.push_back(child);
  }
  bool right = true;
  for (auto const child : children) {
    int status = 0;
    right = ::waitpid(child, &status, 0) == child && status == 0 && right;
  }
  return right;
}

#ifdef YOKE_TESTS_MPI
bool by_mpi() {
  parallel::mpi_session session;
  parallel::mpi ranks{session};
  return by_processes(parallel::any{ranks}, "mpi");
}
#endif

}  // namespace

int main(int arguments, char** argument) {
  std::string_view const how = arguments > 1 ? argument[1] : "";
  if (how == "threads")
    return by_threads() ? 0 : 1;
  if (how == "sockets")
    return by_sockets() ? 0 : 1;
#ifdef YOKE_TESTS_MPI
  if (how == "mpi")
    return by_mpi() ? 0 : 1;
#endif
  std::fprintf(stderr, "ranks_main threads | sockets, or by mpirun: mpi, in a build with MPI\n");
  return 2;
}
