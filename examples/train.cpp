// yoke-train: trains a two-tower model on image-text shards, or on the built-in scenes, and reports what it learned.
#include "train.hpp"

#include "on_cpu.hpp"
#include <CLI/CLI.hpp>

// In train_fp32.cpp, so that two compilers share the work.
extern template void train_tool::train<train_tool::on_cpu, float>(train_tool::on_cpu const&,
                                                                  train_tool::settings);

namespace {

void add_options(CLI::App& app, train_tool::settings& s) {
  app.description(
      "Trains an image tower and a text tower: contrastively, or in BASIC's three phases.\n\n"
      "Examples:\n"
      "  yoke-train --train-data scenes --out run\n"
      "  yoke-train --train-data 'cc3m-{00000..00331}.tar' --model ViT-B-32 --batch-size 1024 --micro-batch "
      "64\n"
      "  yoke-train --train-data 'labelled-{00..31}.tar' --classnames names.txt --model basic_s --phases "
      "image,text,both\n"
      "  yoke-train --resume run/checkpoint --out run        goes on bitwise as if it had never stopped\n"
      "  mpirun -n 4 yoke-train …   or torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, "
      "MASTER_PORT)\n\n"
      "Options have OpenCLIP's names where they mean the same.");
  app.set_version_flag("--version", std::string(yoke::version));
  auto const* const positive = &CLI::PositiveNumber;

  auto* const data = app.add_option_group("Data");
  data->add_option("--train-data", s.train_data,
                   "Shards, {000..123} counts, or \"scenes\": generated images and captions")
      ->capture_default_str();
  data->add_option("--labelled-data", s.labelled_data,
                   "Shards with cls, for phase image and --mix; without it --train-data");
  data->add_option("--mix", s.mix,
                   "Parts of captions (of --train-data) and of labels as text (of --labelled-data) in phases "
                   "text and both, such as 3:1")
      ->capture_default_str();
  data->add_option("--val-data", s.val_data,
                   "Held-out shards with cls, for zero-shot accuracy after each epoch");
  data->add_option("--classnames", s.classnames,
                   "File with the name of class 0, 1, … a line, for --val-data, phase image and --mix");
  data->add_option("--templates", s.templates, "File with a sentence a line, {} where the class's name goes");
  data->add_option(
          "--train-num-samples", s.train_samples,
          "Samples of an epoch, which may go through the data more than once; 0 counts them in the shards")
      ->capture_default_str();
  auto* const tokenizer = data->add_option("--tokenizer", s.tokenizer,
                                           "SentencePiece model; without it one is trained on the captions");
  data->add_option("--vocabulary", s.vocabulary, "Most tokens of a trained tokenizer")
      ->check(*positive)
      ->capture_default_str();
  data->add_option("--workers", s.workers, "Threads that decode and augment")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  data->add_option("--flip", s.flip, "Probability of mirroring a training image")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  data->add_option("--crop", s.crop,
                   "Smallest share of its area that a training image is cropped to; 1: none")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();

  auto* const model = app.add_option_group("Model");
  auto* const named = model->add_option(
      "--model", s.model,
      "ViT-B-32, ViT-B-16, ViT-L-14, ViT-H-14, small, tiny, scenes; basic_s, basic_m, basic_l, "
      "basic_cifar, basic_tiny; or the path of an OpenCLIP model configuration or of a basic_config.json");
  named->capture_default_str();
  model
      ->add_option(
          "--init", s.init,
          "Checkpoint whose towers the first phases begin with, and whose tokenizer and model they take")
      ->excludes(named)
      ->excludes(tokenizer);
  model
      ->add_option("--precision", s.precision,
                   "Of the towers; parameters, statistics and the loss are always fp32")
      ->check(CLI::IsMember({"fp32", "bf16", "amp_bf16"}))
      ->capture_default_str();
  model->add_option("--remat", s.remat, "What is computed again in backward instead of kept: for less memory")
      ->check(CLI::IsMember({"nothing", "cheap", "blocks", "everything"}))
      ->capture_default_str();
  model->add_flag("--grad-checkpointing", s.checkpointing, "The same as --remat blocks");

  auto* const training = app.add_option_group("Training");
  training->add_option("--batch-size", s.batch, "Pairs of a step, all contrasted with each other")
      ->check(*positive)
      ->capture_default_str();
  training
      ->add_option("--micro-batch", s.micro_batch,
                   "Pairs in the towers at a time, a divisor of the batch; less memory, "
                   "the same gradients, a third more work; 0 takes what fits")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  training
      ->add_option("--memory", s.memory,
                   "Budget of a step, such as 23GiB; without it, half of the machine's "
                   "or what is free on the card")
      ->capture_default_str();
  training->add_option("--epochs", s.epochs)->check(*positive)->capture_default_str();
  training->add_option("--lr", s.rate, "Peak learning rate")->check(*positive)->capture_default_str();
  training
      ->add_option("--loss", s.loss,
                   "Of pairs: infonce (softmax over the batch, as CLIP and BASIC) or sigmoid (each pair for "
                   "itself, as SigLIP)")
      ->check(CLI::IsMember({"infonce", "sigmoid"}))
      ->capture_default_str();
  training->add_option("--lr-scheduler", s.scheduler)
      ->check(CLI::IsMember({"cosine", "linear", "const"}))
      ->capture_default_str();
  training->add_option("--warmup", s.warmup, "Steps to the peak; -1: a tenth of all, at most 2000")
      ->capture_default_str();
  training->add_option("--optimizer", s.optimizer)
      ->check(CLI::IsMember({"adamw", "adafactorw"}))
      ->capture_default_str();
  training
      ->add_option("--wd", s.weight_decay, "Decoupled decay of matrices; 0.2 for adamw, 0.01 for adafactorw")
      ->check(CLI::NonNegativeNumber);
  training->add_option("--beta1", s.beta1, "0.9")->check(CLI::Range(0.0, 0.9999));
  training->add_option("--beta2", s.beta2, "0.98 for adamw; 0.999, its limit, for adafactorw")
      ->check(CLI::Range(0.0, 0.99999));
  training->add_option("--eps", s.epsilon, "1e-6 for adamw, 1e-30 for adafactorw")->check(*positive);
  training->add_option("--grad-clip-norm", s.clip_norm, "Largest norm of all gradients; 0: no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  training->add_option("--seed", s.seed)->capture_default_str();

  auto* const phases = app.add_option_group("Phases");
  phases
      ->add_option(
          "--phases", s.phases,
          "image: the image tower learns the classes of labelled images; text: the text tower learns "
          "beside the frozen image tower; both: both learn. In this order, a part of image,text,both")
      ->capture_default_str();
  for (std::size_t i = 0; i < train_tool::phase_names.size(); ++i) {
    auto const name = std::string("--") + train_tool::phase_names[i];
    auto const last = i == 2;
    phases
        ->add_option(name + "-epochs", s.of_phase[i].epochs,
                     last ? "Without it --epochs, or a fifth after other phases" : "Without it --epochs")
        ->check(*positive);
    phases
        ->add_option(name + "-lr", s.of_phase[i].rate,
                     last ? "Without it --lr, or a twentieth after other phases" : "Without it --lr")
        ->check(*positive);
  }
  phases
      ->add_option("--label-smoothing", s.label_smoothing,
                   "Of phase image: the share of the target that all classes have in common")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  phases->add_flag("--augmented-text", s.augmented_text,
                   "Phase text embeds augmented images in every step; without it, each image once, as it is");

  auto* const ranks = app.add_option_group("Ranks");
  ranks->add_option("--mesh", s.mesh,
                    "DATAxMODEL: ranks that share out the batch x ranks that share out the model; without it "
                    "all share out the batch");
  ranks
      ->add_option("--model-parallel", s.model_parallel,
                   "How the ranks of the model axis share the towers: tensor (heads and columns), or "
                   "gathered (weights just before use)")
      ->check(CLI::IsMember({"none", "tensor", "gathered"}))
      ->capture_default_str();
  ranks
      ->add_option("--split", s.split,
                   "What of the data a rank gets: samples (its part of each batch that one rank would have) "
                   "or shards (of its own; for many shards)")
      ->check(CLI::IsMember({"samples", "shards"}))
      ->capture_default_str();
  ranks->add_option("--timeout", s.timeout, "Seconds that ranks wait for one that does not come")
      ->check(*positive)
      ->capture_default_str();

  auto* const device = app.add_option_group("Device");
  device->add_option("--device", s.device, "cpu, cuda, or cuda:N for card N")
      ->check(CLI::Validator(
          [](std::string& name) {
            return name == "cpu" || train_tool::card_number(name) >= 0 ? "" : "is cpu, cuda or cuda:N";
          },
          ""))
      ->capture_default_str();
  device->add_flag("--cuda-graphs", s.cuda_graphs, "Give the card each part of a step as one command");
  device->add_flag("--tf32", s.tf32, "fp32 products on the card's tensor cores, with 10 bits of mantissa");

  auto* const output = app.add_option_group("Output");
  output->add_option("--out", s.out, "Folder for checkpoint, metrics.jsonl and report.html")
      ->capture_default_str();
  output->add_option(
      "--resume", s.resume,
      "Checkpoint to go on from, with the options that it was trained with; latest: the one in --out, "
      "if there is one, else from the beginning");
  output->add_option("--save-every", s.save_every, "Steps between checkpoints; 0: after each epoch")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  output->add_option("--log-every", s.log_every, "Steps between progress lines")
      ->check(*positive)
      ->capture_default_str();
  output->add_option("--stop-after", s.stop_after, "Save and stop after this step; 0: run to the end")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

/// A run from what the command line says, and the checkpoint that it names.
void run(train_tool::settings s) {
  using namespace train_tool;
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::signal(SIGTERM, [](int) { interrupted = 1; });
  s = prepared(std::move(s));
  auto const& begins_with = s.resume.empty() ? s.init : s.resume;
  auto const configuration =
      hash(identity(s).dump() + (begins_with.empty() ? "" : train::read_run(begins_with).dump()));
  auto const ranks = meet(configuration, s.timeout);
  try {
    expect_common("options, or a checkpoint to begin with,", configuration, *ranks);
    mesh_of(s, ranks->size());
    if (s.device == "cpu")
      train_on(on_cpu{*ranks}, s);
    else
      train_on_cuda(*ranks, s);
  } catch (std::exception const& e) {
    ranks->announce(e.what());
    throw;
  }
}

}  // namespace

int main(int count, char** arguments) {
  tools::settle_threads(arguments);
  CLI::App app;
  train_tool::settings settings;
  add_options(app, settings);
  CLI11_PARSE(app, count, arguments);
  auto const name = train_tool::rank_in_environment() == 0
                        ? std::string("yoke-train")
                        : "yoke-train: rank " + std::to_string(train_tool::rank_in_environment());
  return tools::run(name.c_str(), [&] { run(settings); });
}
