// The two kinds of models that the tools know, CLIP's and BASIC's: how each is named, described in a checkpoint, and
// built.
#pragma once
#include <yoke/io/folder.hpp>
#include <yoke/train/basic_model.hpp>
#include <yoke/train/open_clip_model.hpp>

#include <string>

namespace tools {

using namespace yoke;

/// The tokenizer of a checkpoint.
inline constexpr char const* tokenizer_file = "tokenizer.model";

/// Two plain transformers: OpenCLIP's.
struct clip_kind {
  struct description {
    contrastive::clip_config model{};
    io::open_clip_preprocess preprocess{};
  };
  using model = contrastive::clip_model;
  static constexpr char const* file = "open_clip_config.json";

  static description named(std::string const& name_or_file) {
    return {train::clip_model_config(name_or_file), {}};
  }
  static description read(std::string const& path) {
    auto const config = io::read_open_clip_config(path);
    return {train::from_open_clip(config), config.preprocess};
  }
  static std::string write(description const& d) {
    auto config = train::to_open_clip(d.model);
    config.preprocess = d.preprocess;
    return io::to_json(config).dump(2) + "\n";
  }
  static model build(scope s, contrastive::clip_config const& c) { return contrastive::clip(s, c); }
  static towers::vit image_tower(scope s, contrastive::clip_config const& c) { return {s, c.image}; }
  static extent_t embedding(contrastive::clip_config const& c) { return c.image.embedding; }
};

/// CoAtNet beside a text transformer.
struct basic_kind {
  using description = train::basic_description;
  using model = contrastive::basic_model<>;
  static constexpr char const* file = "basic_config.json";

  static description named(std::string const& name_or_file) {
    return train::basic_model_description(name_or_file);
  }
  static description read(std::string const& path) {
    return train::basic_description_from(io::read_json(path), path);
  }
  static std::string write(description const& d) { return train::to_json(d).dump(2) + "\n"; }
  static model build(scope s, contrastive::basic_config const& c) { return contrastive::basic(s, c); }
  static towers::coatnet<> image_tower(scope s, contrastive::basic_config const& c) {
    return towers::coatnet<>{s, c.image};
  }
  static extent_t embedding(contrastive::basic_config const& c) { return c.image.features(); }
};

/// Whether a checkpoint's folder holds a BASIC model.
inline bool holds_basic(std::string const& folder) {
  return io::detail::exists(folder + "/" + basic_kind::file);
}

/// Whether a name or the file of a description is of a BASIC model.
inline bool names_basic(std::string const& name_or_file) {
  auto const last = name_or_file.rfind('/');
  auto const name = last == std::string::npos ? name_or_file : name_or_file.substr(last + 1);
  return name.starts_with("basic");
}

}  // namespace tools
