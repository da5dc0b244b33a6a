// Safetensors files as Yoke writes them; tests/golden/make_safetensors.py has the reference read one.
#include <yoke/io/folder.hpp>
#include <yoke/io/safetensors_writer.hpp>

#include "io/faults.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using io::dtype;

namespace {
template <class T>
std::vector<T> counted(int first) {
  std::vector<T> values(6);
  for (std::size_t i = 0; i < 6; ++i)
    values[i] = static_cast<T>(static_cast<float>(static_cast<int>(i) + first));
  return values;
}
}  // namespace

TEST_CASE("safetensors writer: the file that the reference implementation has read is written, byte for byte",
          "[io]") {
  scratch_folder const folder;
  auto const path = folder / "f.safetensors";
  std::vector<io::tensor_declaration> tensors{
      {"empty", dtype::f32, {0, 4}}, {"scalar", dtype::f32, {}}, {"naïve/图", dtype::f32, {3}}};
  for (auto const type : {dtype::u8, dtype::i8, dtype::u16, dtype::i16, dtype::bf16, dtype::u32, dtype::i32,
                          dtype::f32, dtype::u64, dtype::i64, dtype::f64})
    tensors.push_back({std::string(name_of(type)), type, {2, 3}});
  io::safetensors_writer writer{
      path, tensors, {{"title", "quotes \" \\ and\nlines, é中😀"}, {"", "empty key"}}};
  writer.append("U8", counted<std::uint8_t>(0));
  writer.append("I8", counted<std::int8_t>(-3));
  writer.append("U16", counted<std::uint16_t>(0));
  writer.append("I16", counted<std::int16_t>(-3));
  writer.append("BF16", counted<yoke::bf16>(-3));
  writer.append("U32", counted<std::uint32_t>(0));
  writer.append("I32", counted<std::int32_t>(-3));
  writer.append("U64", counted<std::uint64_t>(0));
  writer.append("I64", counted<std::int64_t>(-3));
  writer.append("F64", counted<double>(-3));
  float const few[] = {-3, -2, -1}, scalar[] = {2.5F};
  writer.append("naïve/图", std::span{few});
  writer.append("scalar", std::span{scalar});
  auto const f32 = counted<float>(-3);
  writer.append("F32", std::span{f32}.first(1));
  writer.append_bytes("F32", std::as_bytes(std::span{f32}.subspan(1)));
  CHECK(folder.names() != std::vector<std::string>{"f.safetensors"});
  writer.finish();
  CHECK(folder.names() == std::vector<std::string>{"f.safetensors"});

  CHECK((io::read_file(path) == io::read_file(YOKE_GOLDEN_DIR "/safetensors/yoke.safetensors")));
  io::safetensors_file const file{path};
  for (auto const& t : file.tensors()) CHECK(t.offset % size_of(t.type) == 0);  // aligned for who maps it
  CHECK(file.metadata().at("") == "empty key");
}

TEST_CASE("safetensors writer: no tensors, and no metadata", "[io]") {
  scratch_folder const folder;
  io::safetensors_writer{folder / "f", {}}.finish();
  CHECK(io::read_file(folder / "f") == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  CHECK(io::safetensors_file{folder / "f"}.tensors().empty());
  io::safetensors_writer{folder / "f", {}, {{"a", "b"}}}.finish();
  CHECK(io::safetensors_file{folder / "f"}.metadata().at("a") == "b");
}

TEST_CASE("safetensors writer: a caller who breaks the rules is told so", "[io]") {
  scratch_folder const folder;
  auto const path = folder / "f";
  using yoke::precondition_error;
  CHECK_THROWS_AS(
      (io::safetensors_writer{path, {{"a", dtype::u8, {1}}, {"b", dtype::u8, {1}}, {"a", dtype::f32, {2}}}}),
      precondition_error);
  CHECK_THROWS_AS((io::safetensors_writer{path, {{"a", dtype::u8, {-1}}}}), precondition_error);
  CHECK_THROWS_AS(
      (io::safetensors_writer{path, {{"a", dtype::u8, {yoke::extent_t{1} << 40, yoke::extent_t{1} << 40}}}}),
      precondition_error);
  CHECK_THROWS_AS((io::safetensors_writer{path, {{"a", dtype::f64, {yoke::extent_t{1} << 60}}}}),
                  precondition_error);
  CHECK_THROWS_AS((io::safetensors_writer{path, {{"__metadata__", dtype::u8, {1}}}}), precondition_error);
  CHECK_THROWS_MATCHES((io::safetensors_writer{path, {{"\xff", dtype::u8, {1}}}}), io::error,
                       MessageMatches(ContainsSubstring("not UTF-8")));

  io::safetensors_writer writer{path, {{"a", dtype::f32, {2}}}};
  std::vector<float> const values(3);
  CHECK_THROWS_MATCHES(writer.append("b", values), precondition_error,
                       MessageMatches(ContainsSubstring("b was not declared")));
  CHECK_THROWS_MATCHES(writer.append("a", values), precondition_error,
                       MessageMatches(ContainsSubstring("more data than a has")));
  CHECK_THROWS_MATCHES(writer.append("a", std::vector<double>(1)), precondition_error,
                       MessageMatches(ContainsSubstring("a was declared as F32")));
  writer.append("a", std::span{values}.first(1));
  CHECK_THROWS_MATCHES(writer.finish(), precondition_error,
                       MessageMatches(ContainsSubstring("a is not complete")));
  CHECK_THROWS_AS(writer.append("a", std::span{values}.first(2)), precondition_error);
  CHECK(folder.names().size() == 1);
  writer.append("a", std::span{values}.first(1));
  writer.finish();
  CHECK(io::safetensors_file{path}.read<float>("a") == std::vector<float>(2));
}

TEST_CASE("safetensors writer: a full disk leaves the old file", "[io]") {
  scratch_folder const folder;
  auto const path = folder / "f";
  auto const save = [&](float value) {
    io::safetensors_writer writer{path, {{"a", dtype::f32, {100'000}}}};
    writer.append("a", std::vector<float>(100'000, value));
    writer.finish();
  };
  save(1);
  auto const words = failure_in_child([&] {
    limit_file_size(300'000);
    save(2);
  });
  CHECK(words == path + ": cannot write: File too large");
  CHECK(folder.names() == std::vector<std::string>{"f"});
  CHECK(io::safetensors_file{path}.read<float>("a")[99'999] == 1);
}

TEST_CASE("safetensors writer: many tensors, written in turns", "[io]") {
  scratch_folder const folder;
  std::vector<io::tensor_declaration> tensors;
  for (int i = 0; i < 3000; ++i)
    tensors.push_back({"t" + std::to_string(i), i % 2 == 0 ? dtype::i32 : dtype::u8, {4}});
  io::safetensors_writer writer{folder / "f", tensors};
  for (int turn = 0; turn < 2; ++turn)
    for (int i = 2999; i >= 0; --i) {
      auto const name = "t" + std::to_string(i);
      if (i % 2 == 0)
        writer.append(name, std::vector<std::int32_t>{i + turn, i - turn});
      else
        writer.append(name, std::vector<std::uint8_t>(2, static_cast<std::uint8_t>(i + turn)));
    }
  writer.finish();
  io::safetensors_file const file{folder / "f"};
  for (int i = 0; i < 3000; i += 2)
    REQUIRE(file.read<std::int32_t>("t" + std::to_string(i)) ==
            std::vector<std::int32_t>{i, i, i + 1, i - 1});
  auto const low = static_cast<std::uint8_t>(2999), high = static_cast<std::uint8_t>(3000);
  CHECK(file.read<std::uint8_t>("t2999") == std::vector<std::uint8_t>{low, low, high, high});
}

TEST_CASE("safetensors writer: a safetensors file as part of a folder", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  io::folder_writer folder{path, "model.safetensors"};
  io::safetensors_writer writer{folder.file("model.safetensors"), {{"a", dtype::f32, {}}}};
  writer.append("a", std::vector<float>{7});
  CHECK_THROWS_MATCHES(folder.commit(), io::error,
                       MessageMatches(ContainsSubstring("model.safetensors: the file was to be written")));
  writer.finish();
  folder.commit();
  CHECK(io::safetensors_file{path + "/model.safetensors"}.read<float>("a")[0] == 7);
  CHECK(base.names() == std::vector<std::string>{"checkpoint"});
}
