// yoke-zero-shot: classifies the images of labelled shards by a trained model and the names of the classes alone.
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>

#include "encoder.hpp"
#include <CLI/CLI.hpp>

int main(int count, char** arguments) {
  tools::settle_threads(arguments);
  using namespace yoke;
  CLI::App app{
      "Zero-shot classification: each image goes to the class whose name, put into sentences, is nearest.\n"
      "Example: yoke-zero-shot --checkpoint run/checkpoint --data 'test-{000..009}.tar' --classnames "
      "names.txt"};
  std::string checkpoint, shards, names, templates;
  extent_t batch = 100;
  int workers = 2;
  app.add_option("--checkpoint", checkpoint, "Folder that yoke-train saved")->required();
  app.add_option("--data", shards, "WebDataset shards with jpg or png and cls; {000..123} counts")
      ->required();
  app.add_option("--classnames", names, "File with the name of class 0, 1, … a line")->required();
  app.add_option("--templates", templates,
                 "File with a sentence a line, {} where the name goes; a few without it");
  app.add_option("--batch-size", batch, "Images at a time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--workers", workers, "Threads that decode")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  CLI11_PARSE(app, count, arguments);

  return tools::run("yoke-zero-shot", [&] {
    tools::prompts const classes{names, templates};
    auto const encoder = tools::load_encoder(checkpoint, batch);
    auto& model = *encoder;
    data::loader loader{
        data::shards{shards},
        {},
        {.batch = batch,
         .image_size = model.image_size(),
         .training = false,
         .want = {.captions = false, .labels = true},
         .workers = workers,
         .on_skip = [](auto const& bad) { std::fprintf(stderr, "skipped: %s\n", bad.message().c_str()); }}};
    auto const texts = model.texts(eval::prompts(classes.names, classes.templates));
    auto const weights = eval::class_weights(texts.rows(), static_cast<extent_t>(classes.templates.size()));
    auto images = model.empty();
    std::vector<std::int32_t> labels;
    for (auto const& b : loader) {
      model.images(b, images);
      labels.insert(labels.end(), b.labels.begin(), b.labels.end());
      std::fprintf(stderr, "\r%zu images", labels.size());
    }
    std::fprintf(stderr, "\n");
    for (auto label : labels)
      if (label < 0 || label >= static_cast<std::int32_t>(classes.names.size()))
        throw io::error(shards, "class " + std::to_string(label),
                        names + " names " + std::to_string(classes.names.size()) + " classes, from 0");
    auto const classes_count = static_cast<extent_t>(classes.names.size());
    tools::print(eval::zero_shot(images.rows(), {weights.data(), {{classes_count, images.width}}}, labels),
                 classes.names, true);
  });
}
