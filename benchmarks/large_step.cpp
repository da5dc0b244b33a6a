// One whole training step of a model that fills the machine: BASIC-L, 3.1 billion parameters, with AdafactorW, in less
// than 24 GiB. The resident memory is sampled all along and compared with the plan.
//
//   large_step [model=basic_l] [batch=4] [micro_batch=4] [remat=nothing|cheap|blocks|everything] [steps=1] [svg=FILE]
#include <yoke/contrastive/basic.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/io/file.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan_report.hpp>
#include <yoke/train/trainer.hpp>

#include "measure.hpp"
#include "pairs.hpp"
#include <atomic>
#include <charconv>
#include <thread>
#include <unistd.h>

using namespace yoke;

namespace {

using device_type = compact<cpu::context<bf16>>;

struct settings {
  std::string model = "basic_l", svg;
  extent_t batch = 4, micro_batch = 4;
  rematerialize remat = rematerialize::blocks;
  int steps = 1;
};

settings read(int count, char** words) {
  settings s;
  for (int i = 1; i < count; ++i) {
    std::string_view const word = words[i];
    auto const cut = word.find('=');
    auto const name = word.substr(0, cut), value = cut == word.npos ? "" : word.substr(cut + 1);
    auto const number = [&](auto& to) {
      auto const [end, problem] = std::from_chars(value.data(), value.data() + value.size(), to);
      if (problem != std::errc{} || end != value.data() + value.size() || to < 1)
        throw std::runtime_error(std::string(name) + ": a positive number");
    };
    if (name == "model")
      s.model = value;
    else if (name == "svg")
      s.svg = value;
    else if (name == "batch")
      number(s.batch);
    else if (name == "micro_batch")
      number(s.micro_batch);
    else if (name == "steps")
      number(s.steps);
    else if (auto const p = std::find_if(train::every_policy.begin(), train::every_policy.end(),
                                         [&](auto policy) { return train::name_of(policy) == value; });
             name == "remat" && p != train::every_policy.end())
      s.remat = *p;
    else
      throw std::runtime_error("unknown: " + std::string(word));
  }
  return s;
}

/// Bytes of the process that are in memory now.
double resident_bytes() {
  long long size = 0, resident = 0;
  if (auto* const file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lld %lld", &size, &resident) != 2)
      resident = 0;
    std::fclose(file);
  }
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

/// Samples the resident memory ten times a second while it lives.
class memory_curve {
 public:
  memory_curve()
      : thread_{[this](std::stop_token const& stop) {
          while (!stop.stop_requested()) {
            sample();
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
          }
        }} {}
  /// The curve so far; sampling ends.
  train::curve finish() {
    thread_.request_stop();
    thread_.join();
    return curve_;
  }
  double most() const { return most_; }

 private:
  void sample() {
    std::chrono::duration<double> const now = std::chrono::steady_clock::now() - start_;
    auto const bytes = resident_bytes();
    most_ = std::max(most_.load(), bytes);
    curve_.x.push_back(now.count());
    curve_.y.push_back(bytes / 0x1p30);
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  train::curve curve_;
  std::atomic<double> most_ = 0;
  std::jthread thread_;
};

void run(settings const& s) {
  auto const config = contrastive::basic_preset(s.model);
  if (!config)
    throw std::runtime_error("no BASIC model is called " + s.model);
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, *config);
  auto const side = config->image.image_size.height;
  auto const plan = train::plan_step<compact<dry::context<bf16>>>(
      model, list,
      train::planned_step{.batch = s.batch,
                          .image = {{side, side, 3}},
                          .caption_length = config->text.context_length,
                          .step = {.micro_batch = s.micro_batch, .remat = s.remat},
                          .optimizer = optim::adafactor_w_options{}});
  std::fprintf(stderr, "%s: %.1f M parameters, batch %lld, rematerialised: %s; planned:\n%s", s.model.c_str(),
               static_cast<double>(list.count()) / 1e6, static_cast<long long>(s.batch),
               std::string(train::name_of(s.remat)).c_str(), train::plan_table(plan).c_str());

  auto const before = resident_bytes();
  memory_curve memory;
  device_type device{plan.activations, plan.gradients};
  parallel::solo ranks;
  train::trainer trainer{device,
                         ranks,
                         model,
                         list,
                         {.micro_batch = s.micro_batch,
                          .optimizer = optim::adafactor_w_options{},
                          .schedule = {.peak = 1e-3, .decay = optim::decay::constant},
                          .clip_norm = 1,
                          .remat = s.remat}};
  bench::pairs const batch{{.batch = s.batch,
                            .side = side,
                            .vocabulary = config->text.vocabulary,
                            .context_length = config->text.context_length,
                            .caption_length = config->text.context_length}};
  std::fprintf(stderr, "initial values drawn; ");
  double seconds = 0;
  for (int step = 0; step < s.steps; ++step) {
    train::step_report report;
    seconds = bench::best_of(
        1, [&] { report = trainer.step(batch.images(), batch.captions()); }, 0);
    std::fprintf(stderr, "step %d: loss %.4f, gradient norm %.3g, %.1f s\n", step, report.loss,
                 report.gradient_norm, seconds);
    if (report.skipped)
      throw std::runtime_error("the step was skipped: loss or gradients are not finite");
  }
  auto curve = memory.finish();
  auto const most = 1e9 * bench::most_memory() * 1.024;  // the system counts KiB
  auto const planned = static_cast<double>(plan.total());
  std::fprintf(stderr,
               "most resident: %s, of which %s before anything was allocated; planned: %s; ratio %.4f\n",
               train::readable_bytes(most).c_str(), train::readable_bytes(before).c_str(),
               train::readable_bytes(planned).c_str(), most / planned);
  if (!s.svg.empty())
    io::write_file_atomically(
        s.svg, train::svg_file(train::line_plot(curve, {.x_label = "seconds; resident GiB",
                                                        .description = "Resident memory over a training step",
                                                        .reference = planned / 0x1p30,
                                                        .reference_label = "planned"})));
  auto const peak = bench::gemm_peak<bf16>();
  auto const rate = static_cast<double>(s.batch) / seconds;
  auto const flops = 2.0 * static_cast<double>(plan.multiply_adds) / seconds / 1e9;
  bench::report(s.model + ", one step, batch " + std::to_string(s.batch), "bf16, compact", rate, "pairs/s",
                flops / peak,
                R"("resident_gib": )" + std::to_string(most / 0x1p30) + R"(, "planned_gib": )" +
                    std::to_string(planned / 0x1p30));
}

}  // namespace

int main(int count, char** words) {
  try {
    run(read(count, words));
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "large_step: %s\n", e.what());
    return 1;
  }
}
