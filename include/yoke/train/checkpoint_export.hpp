// A checkpoint's parameters as one file, for programs that know nothing of checkpoints.
#pragma once
#include <yoke/io/safetensors_writer.hpp>
#include <yoke/train/checkpoint_parts.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace yoke::train {

/// What was written.
struct exported_model {
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;  // of the tensors
};

/// Writes the parameters and running statistics of the checkpoint `path`, whichever ranks saved it, to one safetensors
/// file, whole and in the order of their names, in the types that they were saved in. Equal parameters give equal files,
/// whatever the mesh was. One tensor at a time is in memory. Throws io::error; a file that was there then still is.
inline exported_model export_model(std::string const& path, std::string const& file) {
  saved_tensors const saved{checkpoint_manifest{path}, checkpoint_manifest::kinds[0]};
  exported_model result;
  std::vector<io::tensor_declaration> tensors;
  for (auto const& [name, t] : saved.tensors()) {
    tensors.push_back({name, t.type, t.shape()});
    ++result.tensors;
    result.bytes += t.bytes();
  }
  io::safetensors_writer writer{file, tensors};
  std::vector<std::byte> whole;
  for (auto const& [name, t] : saved.tensors()) {
    whole.resize(t.bytes());
    saved.read(t, whole);
    writer.append_bytes(name, whole);
  }
  writer.finish();
  return result;
}

}  // namespace yoke::train
