// yoke-batch-size: does a larger contrastive batch generalise better? BASIC's theory (arXiv 2111.10050), tried on
// a small model.
#include "batch_size.hpp"

#include "tools.hpp"
#include <CLI/CLI.hpp>

int main(int count, char** arguments) {
  tools::settle_threads(arguments);
  batch_size_tool::settings s;
  CLI::App app{
      "Trains one small model at several contrastive batch sizes on the same samples, equally often, and "
      "draws the gap\n"
      "between what it knows of them and of held-out ones. Runs that are in the folder already are not run "
      "again.\n\n"
      "Examples:\n"
      "  yoke-batch-size --out batch-size\n"
      "  yoke-batch-size --data 'cifar10-train-{000000..000004}.tar' --classnames names.txt "
      "--repeated-captions"};
  auto const* const positive = &CLI::PositiveNumber;
  app.add_option("--batches", s.batches, "Batch sizes, divisors of --samples")
      ->delimiter(',')
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--seeds", s.seeds, "Runs of each batch size; a seed is data, order and initial values")
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--data", s.data, "\"scenes\": generated images and captions, or shards with txt and cls")
      ->capture_default_str();
  app.add_option("--classnames", s.classnames, "File with the name of class 0, 1, … a line, for shards");
  app.add_option("--templates", s.templates, "File with a sentence a line, {} where the class's name goes");
  app.add_flag(
      "--repeated-captions", s.repeated_captions,
      "Take samples whose caption another one has, too: in a batch they are wrong negatives, the more the "
      "larger it is");
  app.add_option("--samples", s.samples, "To train on, each once an epoch")
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--held-out", s.held_out, "Held-out samples of the same stream")
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--epochs", s.epochs)->check(*positive)->capture_default_str();
  app.add_option("--model", s.model, "As yoke-train's")->capture_default_str();
  app.add_option("--patch", s.patch, "Side of the image tower's patches; 0: the model's own")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--precision", s.precision)->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  app.add_option("--lr", s.rate, "Peak learning rate at batch 64")->check(*positive)->capture_default_str();
  app.add_option("--lr-rule", s.rate_rule, "How the rate grows with the batch")
      ->check(CLI::IsMember({"const", "sqrt", "linear"}))
      ->capture_default_str();
  app.add_option("--wd", s.weight_decay,
                 "Decoupled decay of matrices; none, because its effect over a run depends on rate and steps")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--evaluation-batch", s.evaluation_batch, "The batch at which all losses are compared")
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--evaluations", s.evaluations, "How often a run is measured")
      ->check(*positive)
      ->capture_default_str();
  app.add_option("--jobs", s.jobs, "Runs side by side, each on one core; 0: one for each core")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--out", s.out, "Folder for runs.jsonl, report.html and plots")->capture_default_str();
  CLI11_PARSE(app, count, arguments);
  return tools::run("yoke-batch-size", [&] { batch_size_tool::run(s, stdout); });
}
