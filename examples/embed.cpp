// yoke-embed: writes the embeddings of images or of lines of text to a safetensors file, for any program to use.
#include <yoke/data/image.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>

#include "encoder.hpp"
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>

namespace {

using namespace yoke;

std::vector<std::string> lines_of(std::string const& path) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file)
      throw io::error(path, "", "cannot be opened");
  }
  auto& from = path == "-" ? std::cin : file;
  std::vector<std::string> lines;
  for (std::string line; std::getline(from, line);) lines.push_back(line);
  if (lines.empty())
    throw io::error(path, "", "has no lines");
  return lines;
}

/// Image files given one by one.
eval::embeddings embed_files(tools::embedder& model, std::vector<std::string> const& paths, extent_t batch) {
  auto rows = model.empty();
  data::image_decoder decode;
  data::preprocessor prepare;
  data::picture image;
  auto const side = model.image_size();
  data::batch b;
  for (std::size_t first = 0; first < paths.size(); first += static_cast<std::size_t>(batch)) {
    auto const n = std::min(paths.size() - first, static_cast<std::size_t>(batch));
    b.image_shape = {{static_cast<extent_t>(n), side, side, 3}};
    b.pixels.resize(static_cast<std::size_t>(b.image_shape.size()));
    for (std::size_t i = 0; i < n; ++i) {
      auto const bytes = io::read_file(paths[first + i]);
      try {
        decode(std::as_bytes(std::span{bytes}), image);
      } catch (io::error const& bad) {
        throw io::error(paths[first + i], "", bad.what());
      }
      auto const one =
          slice(view<std::uint8_t, 4>{b.pixels.data(), b.image_shape}, static_cast<extent_t>(i), 1);
      prepare.evaluate(std::as_const(image).hwc(), {one.data, {{side, side, 3}}});
    }
    model.images(b, rows);
  }
  return rows;
}

eval::embeddings embed_shards(tools::embedder& model, std::string const& patterns, extent_t batch,
                              int workers) {
  auto rows = model.empty();
  data::loader loader{data::shards{patterns},
                      {},
                      {.batch = batch,
                       .image_size = model.image_size(),
                       .training = false,
                       .want = {.captions = false, .labels = false},
                       .workers = workers}};
  for (auto const& b : loader) model.images(b, rows);
  return rows;
}

}  // namespace

int main(int count, char** arguments) {
  tools::settle_threads(arguments);
  CLI::App app{
      "Embeds images or texts with a trained model: rows of unit length, the tensor \"embeddings\" of a\n"
      "safetensors file. The dot product of an image's and a text's row is their similarity.\n"
      "Example: yoke-embed --checkpoint run/checkpoint --images cat.jpg dog.png --out images.safetensors"};
  std::string checkpoint, text, shards, out;
  std::vector<std::string> images;
  extent_t batch = 64;
  int workers = 2;
  app.add_option("--checkpoint", checkpoint, "Folder that yoke-train saved")->required();
  auto* const input = app.add_option_group("input", "what to embed, one of");
  input->add_option("--images", images, "JPEG or PNG files");
  input->add_option("--data", shards, "WebDataset shards, in their order");
  input->add_option("--text", text, "File with a text a line; - is standard input");
  input->require_option(1);
  app.add_option("--out", out, "File to write")->required();
  app.add_option("--batch-size", batch, "Samples at a time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--workers", workers, "Threads that decode shards")->capture_default_str();
  CLI11_PARSE(app, count, arguments);

  return tools::run("yoke-embed", [&] {
    auto const encoder = tools::load_encoder(checkpoint, batch);
    auto& model = *encoder;
    auto const rows = !text.empty()     ? model.texts(lines_of(text))
                      : !shards.empty() ? embed_shards(model, shards, batch, workers)
                                        : embed_files(model, images, batch);
    io::safetensors_writer file{out, {{"embeddings", io::dtype::f32, {rows.count(), rows.width}}}};
    file.append("embeddings", rows.values);
    file.finish();
    std::printf("%lld embeddings of width %lld in %s\n", static_cast<long long>(rows.count()),
                static_cast<long long>(rows.width), out.c_str());
  });
}
