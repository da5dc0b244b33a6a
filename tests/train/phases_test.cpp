// What the phases stand on: sources with one class each or with numbers, embeddings that are kept, a model as JSON, and
// yoke-train itself, stopped and resumed within and between its phases.
#include <yoke/cpu/context.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/basic_model.hpp>
#include <yoke/train/kept_embeddings.hpp>
#include <yoke/train/sources.hpp>

#include "../../examples/on_cpu.hpp"
#include "../../examples/train_data.cpp"
#include "data/data_files.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using data_files::temporary_folder;

namespace {

/// 48 images in two shards: those of one class have one colour more than the others.
void write_labelled(temporary_folder const& folder, int classes = 3) {
  for (int shard = 0; shard < 2; ++shard) {
    data_files::members all;
    for (int i = 24 * shard; i < 24 * (shard + 1); ++i) {
      auto image = data_files::noise(32, 32, static_cast<std::uint32_t>(i));
      auto const c = i % classes;
      for (std::size_t p = 0; p < image.pixels.size(); p += 3)
        image.pixels[p + static_cast<std::size_t>(c % 3)] = 250;
      auto const key = std::to_string(100000 + i);
      all.emplace_back(key + ".png", data_files::png(image));
      all.emplace_back(key + ".txt", std::string("a photo of ") + "abc"[c % 3]);
      all.emplace_back(key + ".cls", std::to_string(c));
    }
    data_files::write_tar(folder / ("train-" + std::to_string(shard) + ".tar"), all);
  }
  data_files::write(folder / "names.txt", "red\ngreen\nblue\n");
}

train_tool::settings small_run(temporary_folder const& folder, std::string const& out) {
  train_tool::settings s;
  s.train_data = folder / "train-{0..1}.tar";
  s.val_data = folder / "train-0.tar";
  s.classnames = folder / "names.txt";
  s.model = "basic-tiny";
  s.precision = "fp32";
  s.vocabulary = 300;
  s.batch = 8;
  s.micro_batch = 4;
  s.phases = "image,text,both";
  s.of_phase[0] = {2, 2e-3};
  s.of_phase[1] = {2, 2e-3};
  s.of_phase[2] = {1, 1e-4};
  s.flip = 0.5;
  s.label_smoothing = 0.1;
  s.workers = 1;
  s.out = folder / out;
  return s;
}

/// A rank that is a thread.
class thread_rank final : public train_tool::launched_ranks {
 public:
  explicit thread_rank(parallel::threads& ranks) : any_{ranks} {}
  int rank() const override { return any_.rank(); }
  int size() const override { return any_.size(); }
  int local_rank() const override { return rank(); }
  parallel::any& on_host() override { return any_; }
  parallel::rendezvous* meeting() override { return nullptr; }
  std::chrono::milliseconds timeout() const override { return {}; }
  void wait_for_all() override { barrier(any_); }
  void announce(std::string const&) noexcept override {}

 private:
  parallel::any any_;
};

/// As yoke-train does it, in fp32 alone: two precisions would take twice as long to compile.
void learn(train_tool::launched_ranks& ranks, train_tool::settings const& s) {
  train_tool::train<train_tool::on_cpu, float>(train_tool::on_cpu{ranks}, train_tool::prepared(s));
}

void run(train_tool::settings const& s) {
  train_tool::one_rank alone;
  learn(alone, s);
}

std::vector<double> losses(std::string const& out) {
  std::vector<double> all;
  for (auto const& r : train::read_metrics(out + "/metrics.jsonl"))
    if (auto const loss = r.find("loss"))
      all.push_back(*loss);
  return all;
}

/// What was evaluated, without the losses.
std::vector<std::string> evaluations(std::string const& out) {
  std::vector<std::string> all;
  for (auto const& r : train::read_metrics(out + "/metrics.jsonl"))
    if (!r.find("loss"))
      all.push_back(train::to_json(r));
  return all;
}

}  // namespace

TEST_CASE("yoke-train stopped within and between phases and resumed is bitwise never stopped") {
  temporary_folder const folder;
  write_labelled(folder);
  // `stops`: within image, at its end, within text, at its end, within both; and the steps of all.
  auto const check = [&](std::string const& name, std::vector<std::int64_t> const& stops, std::size_t steps,
                         auto const& change) {
    auto whole = small_run(folder, name + "-whole");
    change(whole);
    run(whole);
    auto const wanted = losses(whole.out);
    REQUIRE(wanted.size() == steps);
    auto part = small_run(folder, name + "-parts");
    change(part);
    for (auto const stop : stops) {
      part.stop_after = stop;
      run(part);
      part = {};  // all else is the checkpoint's
      part.resume = folder / (name + "-parts/checkpoint");
      part.out = folder / (name + "-parts");
      part.val_data = folder / "train-0.tar";
      part.micro_batch = 4;
      part.workers = 2;
    }
    CHECK(losses(part.out) == wanted);
    CHECK(evaluations(part.out) == evaluations(whole.out));
    for (auto const* const file : {"model.safetensors", "optimizer.safetensors", "basic_config.json"}) {
      INFO(file);
      bool const same = data_files::read(part.out + "/checkpoint/" + file) ==
                        data_files::read(whole.out + "/checkpoint/" + file);
      CHECK(same);
    }
    CHECK(data_files::read(whole.out + "/report.html").find("The text tower learns beside it") !=
          std::string::npos);
  };
  check("kept", {3, 12, 17, 24, 26, 0}, 30, [](auto&) {});
  check("embedded", {3, 12, 17, 36, 40, 0}, 48,
        [](auto& s) {  // as many labels as captions: 12 steps an epoch
          s.augmented_text = true;
          s.optimizer = "adafactorw";
          s.mix = "1:1";
        });
}

TEST_CASE(
    "a run goes on where it was stopped: no further when it was told to stop there, nor on other data") {
  temporary_folder const folder;
  write_labelled(folder);
  auto s = small_run(folder, "run");
  s.resume = "latest";
  s.stop_after = 12;  // the end of phase image
  run(s);
  auto const metrics = data_files::read(s.out + "/metrics.jsonl");
  run(s);
  s.stop_after = 5;
  run(s);
  CHECK(losses(s.out).size() == 12);
  CHECK(!std::filesystem::exists(s.out + "/image_embeddings.safetensors"));
  CHECK(data_files::read(s.out + "/metrics.jsonl") == metrics);

  // Killed before what followed the last step of the phase was written.
  auto const last_line = metrics.rfind('\n', metrics.size() - 2) + 1;
  data_files::write(s.out + "/metrics.jsonl", metrics.substr(0, last_line));
  CHECK(evaluations(s.out).size() == 1);
  s.stop_after = 13;
  run(s);
  CHECK(evaluations(s.out).size() == 2);
  CHECK(losses(s.out).size() == 13);

  data_files::write_tar(
      folder / "train-1.tar",
      {{"a.png", data_files::png(data_files::noise(32, 32, 1))}, {"a.txt", "a photo of a"}, {"a.cls", "0"}});
  CHECK_THROWS_WITH(run(s), ContainsSubstring("state.json: run.samples_image: was 48, and is now 25"));
}

TEST_CASE("the checkpoint that a run begins with is not where it saves") {
  temporary_folder const folder;
  write_labelled(folder);
  auto s = small_run(folder, "run");
  s.stop_after = 1;
  run(s);
  auto const model = data_files::read(s.out + "/checkpoint/model.safetensors");
  s.init = folder / "run/../run/checkpoint";
  CHECK_THROWS_WITH(run(s), ContainsSubstring("is where this run saves its own checkpoint"));
  CHECK(data_files::read(s.out + "/checkpoint/model.safetensors") == model);
}

TEST_CASE("ranks that see other data say so before a step", "[ranks]") {
  temporary_folder const folder;
  write_labelled(folder);
  auto const said = [&](auto const& change) {
    std::array<std::string, 2> sentences;
    parallel::threads_group{2}.run([&](parallel::threads& ranks) {
      auto s = small_run(folder, "run");
      s.mesh = "2x1";
      if (ranks.rank() == 1)
        change(s);
      thread_rank here{ranks};
      try {
        learn(here, s);
      } catch (parallel::error const& e) {
        sentences[static_cast<std::size_t>(ranks.rank())] = e.what();
      }
    });
    CHECK(sentences[0] == sentences[1]);
    return sentences[0];
  };
  CHECK(said([&](auto& s) { s.train_data = folder / "train-0.tar"; }) ==
        "rank 1 has a number of samples for phase image other than rank 0");
  CHECK(said([](auto& s) { s.vocabulary = 270; }) == "rank 1 has a tokenizer other than rank 0");
  CHECK(!std::filesystem::exists(folder / "run/checkpoint"));
}

TEST_CASE("a run that is over and is started again stays as it was, its report as well") {
  temporary_folder const folder;
  write_labelled(folder);
  auto s = small_run(folder, "run");
  s.resume = "latest";  // there is none yet
  run(s);
  auto const metrics = data_files::read(s.out + "/metrics.jsonl"),
             report = data_files::read(s.out + "/report.html");
  CHECK(evaluations(s.out).size() == 5);
  run(s);
  CHECK(data_files::read(s.out + "/metrics.jsonl") == metrics);
  CHECK(data_files::read(s.out + "/report.html") == report);
}

TEST_CASE("an epoch of more samples than there are goes through them again") {
  temporary_folder const folder;
  write_labelled(folder);
  auto s = small_run(folder, "run");
  s.phases = "both";
  s.of_phase = {};
  s.epochs = 2;
  s.label_smoothing = 0;
  s.train_samples = 100;
  for (auto const* const split : {"samples", "shards"}) {
    s.split = split;
    run(s);
    CHECK(losses(s.out).size() == 24);
    CHECK(std::filesystem::exists(s.out + "/checkpoint/model.safetensors"));
  }
}

TEST_CASE("phases begin with both towers of another checkpoint") {
  temporary_folder const folder;
  write_labelled(folder);
  auto first = small_run(folder, "first");
  run(first);
  auto s = small_run(folder, "second");
  s.init = first.out + "/checkpoint";
  s.model = "basic_s";  // not that: the checkpoint's
  s.phases = "image,both";
  s.seed = 9;
  s.weight_decay = 0;
  s.of_phase[0].rate = s.of_phase[2].rate = 1e-12;
  s.of_phase[1] = {};
  run(s);
  auto const value = [](train_tool::settings const& of, std::string const& name) {
    return io::safetensors_file{of.out + "/checkpoint/model.safetensors"}.read<float>(name);
  };
  for (auto const* const name : {"text.tokens", "text.positions", "logit_scale"}) {
    auto const a = value(first, name), b = value(s, name);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!(std::abs(a[i] - b[i]) < 1e-6f))
        FAIL(name << " " << i);
  }
  auto const model_of = [](train_tool::settings const& of) {
    return train::read_run(of.out + "/checkpoint").find("options")->find("model")->as<std::string>();
  };
  CHECK(model_of(s) == model_of(first));

  s.loss = "sigmoid";
  CHECK_THROWS_WITH(run(s), ContainsSubstring("wants a model with a bias of logits, which that of"));
}

TEST_CASE("phase text leaves the image tower as it was, to the bit") {
  temporary_folder const folder;
  write_labelled(folder);
  auto s = small_run(folder, "run");
  s.phases = "image,text";
  s.of_phase[2] = {};
  s.stop_after = 12;
  run(s);
  auto const image = [&] {
    io::safetensors_file const file{s.out + "/checkpoint/model.safetensors"};
    std::map<std::string, std::vector<float>> all;
    for (auto const& t : file.tensors())
      if (t.name.starts_with("image."))
        all[t.name] = file.read<float>(t.name);
    return all;
  };
  auto const before = image();
  REQUIRE(before.size() > 10);
  s.stop_after = 0;
  s.resume = s.out + "/checkpoint";
  run(s);
  CHECK(image() == before);
  CHECK(io::safetensors_file{s.out + "/checkpoint/optimizer.safetensors"}.find("first_moment/text.tokens") !=
        nullptr);
}

TEST_CASE("what contradicts itself is a sentence before any work") {
  temporary_folder const folder;
  write_labelled(folder);
  auto const refused = [&](auto const& change, std::string const& sentence) {
    auto s = small_run(folder, "refused");
    change(s);
    CHECK_THROWS_WITH(run(s), ContainsSubstring(sentence));
    CHECK(!std::filesystem::exists(s.out + "/checkpoint"));
  };
  refused(
      [](auto& s) {
        s.phases = "text";
        s.of_phase[0].epochs.reset();
        s.of_phase[2] = {};
      },
      "the image tower is frozen in phase text and learns at no rate there");
  refused([](auto& s) { s.phases = "image,text"; },
          "--both-lr: is of a phase that --phases image,text does not run");
  refused([](auto& s) { s.phases = "both,image"; }, "names phases in their order");
  refused([](auto& s) { s.micro_batch = 3; }, "does not divide the 8 pairs of a rank");
  refused([](auto& s) { s.classnames.clear(), s.val_data.clear(); }, "there is no list");
  refused([](auto& s) { s.micro_batch = 0, s.memory = "0.1MiB"; }, "takes at least");
  refused([](auto& s) { s.memory = "0.1MiB"; }, "a step in micro-batches of 4 takes ");
  refused([](auto& s) { s.mix = "1"; }, "two whole numbers");
  refused(
      [&](auto& s) {
        data_files::write(folder / "two.txt", "red\ngreen\n");
        s.classnames = folder / "two.txt";
      },
      "class 2 has no name: ");
  refused(
      [&](auto& s) {
        data_files::write_tar(folder / "plain.tar", {{"a.png", data_files::png(data_files::noise(8, 8, 1))},
                                                     {"a.txt", "a picture"}});
        s.labelled_data = folder / "plain.tar";
      },
      "none of the 1 samples looked at has a class");
  refused([](auto& s) { s.phases = "text,both", s.of_phase[0] = {}; },
          "phase text wants a trained image tower");
  refused([](auto& s) { s.augmented_text = true, s.phases = "image,both", s.of_phase[1] = {}; },
          "--augmented-text: is of phase text");
  refused([](auto& s) { s.tf32 = true; }, "--tf32: is for a card");
  refused([](auto& s) { s.train_data = "scenes"; }, "the generated scenes are for phase both alone");
}

TEST_CASE("embeddings are kept, read back, and refused where they are another tower's or of other samples") {
  temporary_folder const folder;
  write_labelled(folder);
  data::shards const shards{folder / "train-{0..1}.tar"};
  train::sample_numbers const numbers{shards};
  CHECK(numbers.count() == 48);
  CHECK(numbers.digest() != train::sample_numbers{data::shards{folder / "train-0.tar"}}.digest());

  parameter_list list;
  auto const config = *contrastive::basic_preset("basic_tiny");
  towers::coatnet<> const tower{scope{list} / "image", config.image};
  cpu::context<float> device{mebibytes(64), mebibytes(1)};
  contrastive::frozen_parameters<cpu::context<float>> frozen{device, list};
  for (auto const& p : list.infos())
    frozen.master_block().visit(p, [&](auto values) { yoke::detail::draw_initial(p, 1, values); });
  frozen.refresh(device);
  using rules = train::numbered<data::shards>::rules;
  auto const width = config.image.features();
  auto const tower_print = train::fingerprint(device, list, frozen);
  train::kept_embeddings<float> kept{48, width, numbers.digest(), tower_print}, again = kept;
  data::loader images{
      train::numbered<data::shards>{shards, std::make_shared<rules const>(rules{numbers})},
      {},
      {.batch = 7, .image_size = 32, .training = false, .want = {.captions = false, .labels = true}}};
  train::keep_embeddings(
      device, tower, frozen, images,
      [](data::batch const& b) { return contrastive::pixel_batch{.pixels = b.images()}; }, kept);
  CHECK(std::count(kept.present().begin(), kept.present().end(), 1) == 48);

  // Three ranks embed parts, two of them smaller, and have all.
  std::vector<train::kept_embeddings<float>> parts(3, again);
  for (int rank = 0; rank < 3; ++rank) {
    data::loader some{train::numbered<data::shards>{shards, std::make_shared<rules const>(rules{numbers})},
                      {},
                      {.batch = 7,
                       .image_size = 32,
                       .training = false,
                       .want = {.captions = false, .labels = true},
                       .rank = rank,
                       .ranks = 3,
                       .split = data::split::by_samples}};
    train::keep_embeddings(
        device, tower, frozen, some,
        [](data::batch const& b) { return contrastive::pixel_batch{.pixels = b.images()}; },
        parts[static_cast<std::size_t>(rank)]);
  }
  CHECK(std::count(parts[2].present().begin(), parts[2].present().end(), 1) == 14);
  parallel::threads_group{3}.run(
      [&](parallel::threads& ranks) { parts[static_cast<std::size_t>(ranks.rank())].unite(ranks); });
  for (auto const& part : parts) {
    CHECK(part.present() == kept.present());
    for (extent_t i = 0; i < kept.rows().size(); ++i)
      if (!(std::abs(part.rows().data[i] - kept.rows().data[i]) < 1e-4f))
        FAIL("number " << i);
  }

  // What several have set is the first one's.
  std::vector<train::kept_embeddings<float>> twice{kept, parts[0]};
  std::vector<float> const zeros(static_cast<std::size_t>(width));
  twice[1].set(3, zeros.data());
  parallel::threads_group{2}.run(
      [&](parallel::threads& ranks) { twice[static_cast<std::size_t>(ranks.rank())].unite(ranks); });
  for (auto const& both : twice)
    CHECK(std::equal(both.rows().data, both.rows().data + both.rows().size(), kept.rows().data));

  // A shuffled loader without images finds for each caption the row of its image.
  data::loader pairs{
      train::numbered<data::shards>{shards, std::make_shared<rules const>(rules{numbers, kept.present()})},
      [](std::string_view text, std::vector<std::int32_t>& ids) { ids.push_back(text.back()); },
      {.batch = 8, .image_size = 1, .seed = 5}};
  data::loader whole{
      shards,
      [](std::string_view text, std::vector<std::int32_t>& ids) { ids.push_back(text.back()); },
      {.batch = 8, .image_size = 32, .seed = 5, .augment = data::augmentation::none()}};
  data::batch b, w;
  std::vector<float> storage, rows(static_cast<std::size_t>(8 * width));
  while (pairs.next(b)) {
    REQUIRE(whole.next(w));
    CHECK(b.tokens == w.tokens);
    auto const found = kept.batch(b.labels, storage);
    contrastive::embed_rows(device, tower, frozen, contrastive::pixel_batch{.pixels = w.images()}, 8,
                            view<float, 2>{rows.data(), {{8, width}}});
    for (std::size_t i = 0; i < rows.size(); ++i) CHECK(std::abs(found.values.data[i] - rows[i]) < 1e-4f);
  }

  auto const path = folder / "embeddings.safetensors";
  kept.save(path);
  again.load(path);
  CHECK(std::equal(again.rows().data, again.rows().data + again.rows().size(), kept.rows().data));
  CHECK(again.present() == kept.present());
  train::kept_embeddings<float> other_tower{48, width, numbers.digest(), tower_print + 1};
  CHECK_THROWS_WITH(other_tower.load(path), ContainsSubstring("of another image tower"));
  train::kept_embeddings<float> other_samples{48, width, numbers.digest() + 1, tower_print};
  CHECK_THROWS_WITH(other_samples.load(path), ContainsSubstring("of other samples"));
  train::kept_embeddings<float> wider{48, width + 1, numbers.digest(), tower_print};
  CHECK_THROWS_AS(wider.load(path), io::error);
  frozen.master_block().flat().data[3] += 1e-3f;
  CHECK(train::fingerprint(device, list, frozen) != tower_print);
}

TEST_CASE("an image without an embedding is a bad sample") {
  temporary_folder const folder;
  write_labelled(folder);
  data::shards const shards{folder / "train-0.tar"};
  train::sample_numbers const numbers{shards};
  using rules = train::numbered<data::shards>::rules;
  std::vector<std::uint8_t> present(24, 1);
  present[5] = 0;
  data::loader pairs{
      train::numbered<data::shards>{shards, std::make_shared<rules const>(rules{numbers, present})},
      [](std::string_view, std::vector<std::int32_t>& ids) { ids.push_back(0); },
      {.batch = 23, .image_size = 1, .shuffle = 0}};
  data::batch b;
  REQUIRE(pairs.next(b));
  CHECK(pairs.skipped() == 1);
  CHECK(std::find(b.labels.begin(), b.labels.end(), 5) == b.labels.end());
  CHECK_THAT(pairs.last_skipped()[0].message(), ContainsSubstring("has no embedding"));
}

TEST_CASE("a BASIC model is its JSON, every field of it") {
  for (auto const name : contrastive::basic_preset_names) {
    train::basic_description d{*contrastive::basic_preset(name), {}};
    d.model.image.stem_bias = false;
    d.model.image.strided = nn::stride_in::depthwise;
    d.model.image.pool = window_pool_kind::mean;
    d.model.image.activation = activation::silu;
    d.model.image.squeeze_activation = activation::gelu;
    d.model.image.squeezed = 0.125;
    d.model.image.norm_epsilon = 1e-3;
    d.model.image.layer_norm_epsilon = 1e-6;
    d.model.image.stochastic_depth = 0.25f;
    d.model.text.dropout = 0.125f;
    d.model.text.stochastic_depth = 0.5f;
    d.model.text.norm_epsilon = 1e-4;
    d.model.text.activation = activation::gelu_tanh;
    d.model.logits = {.scale = 10, .bias = -10.5f};
    d.preprocess.mean = {0.25, 0.5, 0.75};
    auto const text = train::to_json(d).dump(2);
    auto const back = train::basic_description_from(io::parse_json(text, "file"), "file");
    CHECK(train::to_json(back).dump(2) == text);
    CHECK(back.model.image.stages.size() == d.model.image.stages.size());
    CHECK(back.model.image.stages.back().width == d.model.image.stages.back().width);
    CHECK(back.model.image.stem_bias == false);
    CHECK(back.model.image.strided == nn::stride_in::depthwise);
    CHECK(back.model.image.stochastic_depth == 0.25f);
    CHECK(back.model.text.pool == d.model.text.pool);
    CHECK(back.model.text.causal == d.model.text.causal);
    CHECK(back.model.text.dropout == 0.125f);
    CHECK(back.model.logits == d.model.logits);
    CHECK(back.preprocess == d.preprocess);

    auto const refused = [&](std::string const& what, std::string const& with, std::string const& sentence) {
      auto changed = text;
      changed.replace(changed.find(what), what.size(), with);
      CHECK_THROWS_WITH(train::basic_description_from(io::parse_json(changed, "file"), "file"),
                        ContainsSubstring(sentence));
    };
    refused("\"attention\"", "\"mlp\"", "\"mlp\" is none of mbconv, attention");
    refused("\"head_width\"", "\"head_with\"", "head_width: is missing");
    refused("\"channels\": 3", "\"channels\": 0", "image.channels: must be from 1");
    refused("\"causal\"", "\"casual\"", "text.causal: is missing");
  }
  CHECK(train::basic_model_description("basic-tiny").model.image.stem_width == 4);
  CHECK_THROWS_WITH(train::basic_model_description("basic_xl"),
                    ContainsSubstring("there are basic_s, basic_m"));
}
