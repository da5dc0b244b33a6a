// yoke-export: the parameters of a checkpoint, which many ranks may have saved, as one safetensors file.
#include <yoke/train/checkpoint_export.hpp>

#include <CLI/CLI.hpp>
#include <cstdio>

int main(int count, char** arguments) {
  std::string checkpoint, out;
  CLI::App app{"Writes the parameters of a checkpoint to one safetensors file"};
  app.add_option("--checkpoint", checkpoint, "Folder that yoke-train wrote, such as run/checkpoint")
      ->required();
  app.add_option("--out", out, "The file")->required();
  CLI11_PARSE(app, count, arguments);
  try {
    auto const model = yoke::train::export_model(checkpoint, out);
    std::printf("%zu tensors, %.2f MiB: %s\n", model.tensors, static_cast<double>(model.bytes) / 0x1p20,
                out.c_str());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "yoke-export: %s\n", e.what());
    return 1;
  }
}
