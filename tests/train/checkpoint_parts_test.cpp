// The parts of a checkpoint make whole tensors, whatever was cut how; parts that do not belong together are refused.
#include <yoke/core/random.hpp>
#include <yoke/train/checkpoint_export.hpp>

#include "io/scratch.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;

namespace {

/// A tensor as one part has it, of floats that count from `first`.
struct piece {
  std::string name;
  std::vector<extent_t> shape;
  float first = 0;
};
struct part {
  std::vector<piece> pieces;
  std::string cuts = "{}";
  std::string mark = "one";
};

/// A checkpoint of two ranks, 1 x 2 unless state.json says otherwise.
class checkpoint {
 public:
  checkpoint() {
    for (std::size_t r = 0; r < 2; ++r) {
      write("model", r, {{{"whole", {2, 3}, 10}}});
      write("optimizer", r, {});
    }
    write("model", 0, {{{"table", {2, 2}, 0}, {"whole", {2, 3}, 10}}, R"({"table": [1, 1]})"});
    write("model", 1, {{{"table", {2, 2}, 100}}, R"({"table": [1, 1]})"});
    describe();
  }

  std::string path() const { return folder_.path(); }
  std::string file(std::string const& name) const { return folder_ / name; }
  std::string part_of(std::string const& kind, std::size_t r) const {
    return folder_ / train::part_name(kind, r, 2);
  }
  void write(std::string const& kind, std::size_t r, part const& p) const {
    std::vector<io::tensor_declaration> tensors;
    for (auto const& t : p.pieces) tensors.push_back({t.name, io::dtype::f32, t.shape});
    io::safetensors_writer writer{part_of(kind, r), tensors, {{"cuts", p.cuts}, {"mark", p.mark}}};
    for (auto const& t : p.pieces) {
      std::vector<float> values(static_cast<std::size_t>(tensor_place{t.name, t.shape}.size()));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = t.first + static_cast<float>(i);
      writer.append(t.name, values);
    }
    writer.finish();
  }
  /// state.json for the parts that are there, with what `change` does to it.
  template <class Change>
  void describe(Change const& change) const {
    io::json state;
    state["format"] = 2;
    state["mesh"]["data"] = 1;
    state["mesh"]["model"] = 2;
    state["mark"] = "one";
    for (auto const* const kind : {"model", "optimizer"})
      for (std::size_t r = 0; r < 2; ++r)
        state["parts"][kind].push_back(io::input_file{part_of(kind, r)}.size());
    state["run"] = io::json::object();
    change(state);
    io::write_json(folder_ / "state.json", state);
  }
  void describe() const {
    describe([](io::json&) {});
  }

  train::saved_tensors tensors() const {
    return train::saved_tensors{train::checkpoint_manifest{path()}, "model"};
  }
  /// What is said of it, without the folder's name; "" when it is taken.
  std::string refusal() const {
    try {
      auto const saved = tensors();
      std::vector<std::byte> bytes;
      for (auto const& [name, t] : saved.tensors()) {
        bytes.resize(t.bytes());
        saved.read(t, bytes);
      }
      return {};
    } catch (io::error const& e) {
      std::string const words = e.what();
      REQUIRE(words.starts_with(path() + "/"));
      return words.substr(path().size() + 1);
    }
  }

 private:
  scratch_folder folder_;
};

std::vector<float> values(train::saved_tensors const& saved, tensor_place const& held) {
  std::vector<float> to(static_cast<std::size_t>(held.size()));
  saved.read(held, std::as_writable_bytes(std::span{to}));
  return to;
}

}  // namespace

TEST_CASE("parts: whole tensors and shares of any other cut are made of the pieces", "[train]") {
  checkpoint const c;
  auto const saved = c.tensors();
  CHECK(saved.size() == 2);
  CHECK(saved.at("table").shape() == std::vector<extent_t>{2, 4});
  CHECK(values(saved, {"whole", {2, 3}}) == std::vector<float>{10, 11, 12, 13, 14, 15});
  CHECK(values(saved, {"table", {2, 4}}) == std::vector<float>{0, 1, 100, 101, 2, 3, 102, 103});
  CHECK(values(saved, {"table", {2, 2}, {1, 1}, {1, 2}}) == std::vector<float>{100, 101, 102, 103});
  CHECK(values(saved, {"table", {2, 1}, {1, 1}, {2, 4}}) == std::vector<float>{100, 102});
  CHECK(values(saved, {"table", {1, 4}, {0, 1}, {1, 2}}) == std::vector<float>{2, 3, 102, 103});
  CHECK(values(saved, {"table", {2, 2}, {1, 2}, {0, 2}}) == std::vector<float>{0, 100, 2, 102});
  CHECK(values(saved, {"whole", {1, 3}, {0, 1}, {1, 2}}) == std::vector<float>{13, 14, 15});

  auto const exported = train::export_model(c.path(), c.file("all"));
  CHECK((exported.tensors == 2 && exported.bytes == 14 * sizeof(float)));
  io::safetensors_file const all{c.file("all")};
  CHECK(all.metadata().empty());
  CHECK(all.at("table").shape == std::vector<extent_t>{2, 4});
  CHECK(all.read<float>("table") == values(saved, {"table", {2, 4}}));
  CHECK(all.read<float>("whole") == values(saved, {"whole", {2, 3}}));
}

TEST_CASE("parts: more of them than files may be open are read", "[train]") {
  checkpoint const c;
  std::size_t const ranks = 150;
  io::json sizes;
  for (std::size_t r = 0; r < ranks; ++r) {
    auto const path = c.file(train::part_name("model", r, ranks));
    io::safetensors_writer writer{
        path, {{"t", io::dtype::f32, {2}}}, {{"cuts", R"({"t":[0,1]})"}, {"mark", "one"}}};
    writer.append("t", std::vector<float>{static_cast<float>(r), -static_cast<float>(r)});
    writer.finish();
    sizes.push_back(io::input_file{path}.size());
  }
  c.describe([&](io::json& state) {
    state["mesh"]["model"] = ranks;
    state["parts"]["model"] = state["parts"]["optimizer"] = sizes;
  });
  auto const all = values(c.tensors(), {"t", {2 * static_cast<extent_t>(ranks)}});
  for (std::size_t r = 0; r < ranks; ++r)
    REQUIRE((all[2 * r] == static_cast<float>(r) && all[2 * r + 1] == -static_cast<float>(r)));
}

TEST_CASE("parts: what does not belong together is refused by file, tensor and rule", "[train]") {
  checkpoint const c;
  auto const rewrite = [&](std::size_t r, part const& p) {
    c.write("model", r, p);
    c.describe();
    return c.refusal();
  };
  std::string const cut = R"({"table": [1, 1]})";
  REQUIRE(c.refusal().empty());

  SECTION("a part that is missing") {
    io::detail::remove_tree(c.part_of("model", 1));
    CHECK(c.refusal() == "model-00002-of-00002.safetensors: cannot open: No such file or directory");
  }
  SECTION("a part that was cut short") {
    REQUIRE(::truncate(c.part_of("model", 0).c_str(), 180) == 0);
    CHECK_THAT(c.refusal(), ContainsSubstring("model-00001-of-00002.safetensors: "));
  }
  SECTION("a part of another size") {
    c.write("model", 1, {{{"table", {2, 2}, 100}, {"more", {1}}}, cut});
    CHECK_THAT(c.refusal(), ContainsSubstring("model-00002-of-00002.safetensors: has ") &&
                                ContainsSubstring(" bytes where state.json says "));
  }
  SECTION("a part of another checkpoint") {
    CHECK(rewrite(1, {{{"table", {2, 2}, 100}}, cut, "two"}) ==
          "model-00002-of-00002.safetensors: mark: is not \"one\", state.json's: the part is of another "
          "checkpoint");
  }
  SECTION("a whole tensor in two parts") {
    CHECK_THAT(rewrite(1, {{{"table", {2, 2}, 100}, {"whole", {2, 3}}}, cut}),
               ContainsSubstring("model-00002-of-00002.safetensors: whole: is in ") &&
                   EndsWith("model-00001-of-00002.safetensors as well"));
  }
  SECTION("a share in two parts") {
    c.write("model", 1, {{{"table", {2, 2}, 100}}, cut});
    c.describe([](io::json& state) {
      for (auto const* const kind : {"model", "optimizer"}) {
        auto const& sizes = state["parts"][kind].elements();
        state["parts"][kind] = std::vector<io::json>{sizes[0], sizes[1], sizes[0], sizes[1]};
      }
      state["mesh"]["data"] = 2;
    });
    auto const again = [&](std::size_t from, std::size_t to) {
      io::write_file_atomically(c.file(train::part_name("model", to, 4)),
                                io::read_file(c.part_of("model", from)));
    };
    again(0, 0), again(1, 1), again(0, 2), again(1, 3);
    CHECK_THAT(c.refusal(), ContainsSubstring("model-00003-of-00004.safetensors: table: is in ") &&
                                EndsWith("model-00001-of-00004.safetensors as well"));
  }
  SECTION("a share that is in no part") {
    CHECK(rewrite(1, {{{"other", {1}}}}) ==
          "model-*-of-00002.safetensors: table: share 2 of 2 is in no part");
  }
  SECTION("shares of another shape, another cut, or none") {
    std::string const rule = " is of another type, shape or cut";
    for (auto const& other :
         {part{{{"table", {2, 3}}}, cut}, part{{{"table", {2, 2}}}, R"({"table": [0, 1]})"},
          part{{{"table", {2, 2}}}, R"({"table": [1, 2]})"}, part{{{"table", {2, 2}}}}})
      CHECK_THAT(
          rewrite(1, other),
          ContainsSubstring("model-00002-of-00002.safetensors: table: another share") && EndsWith(rule));
  }
  SECTION("cuts that are none") {
    for (auto const* const cuts :
         {"[2, 1]", "[-1, 1]", "[1, 0]", "[1, -2]", "[1, 3]", "[1]", "[1, 1, 1]", "[]", "\"1\"", "[1.5, 1]",
          "null", "[9223372036854775807, 1]", "[99999999999999999999, 1]"})
      CHECK_THAT(
          rewrite(1, {{{"table", {2, 2}}}, "{\"table\": " + std::string(cuts) + "}"}),
          ContainsSubstring("model-00002-of-00002.safetensors: table: is cut along an axis of F32 [2, 2]"));
    CHECK_THAT(rewrite(1, {{{"table", {2, 2}}}, R"({"chair": [0, 1]})"}),
               ContainsSubstring("chair: no such tensor"));
    CHECK_THAT(rewrite(1, {{{"table", {2, 2}}}, R"({"table": [0, 1])"}), ContainsSubstring("cuts: line 1"));
    CHECK_THAT(rewrite(1, {{{"table", {2, 2}}}, R"(["table"])"}), ContainsSubstring("table"));
    CHECK_THAT(rewrite(1, {{{"table", {0, 2}}}, cut}),
               ContainsSubstring("is cut along an axis of F32 [0, 2]"));
  }
  SECTION("parts that are not there") {
    c.describe([](io::json& state) {
      io::json many;
      for (int i = 0; i < 8; ++i) many.push_back(0);
      state["mesh"]["model"] = 8;
      state["parts"]["model"] = state["parts"]["optimizer"] = many;
    });
    CHECK_THAT(c.refusal(), ContainsSubstring("model-00001-of-00008.safetensors"));
  }
}

TEST_CASE("parts: a manifest that promises what cannot be is refused", "[train]") {
  checkpoint const c;
  auto const said = [&](auto const& change) {
    c.describe(change);
    return c.refusal();
  };
  using j = io::json;
  CHECK_THAT(said([](j& s) { s["format"] = 3; }),
             ContainsSubstring("format: is 3; this version reads 1 and 2"));
  CHECK_THAT(said([](j& s) { s["format"] = "2"; }), ContainsSubstring("format: must be a whole number"));
  CHECK_THAT(said([](j& s) { s["run"] = j{}, s["mesh"] = j{}; }), ContainsSubstring("mesh: is missing"));
  CHECK_THAT(said([](j& s) { s["mesh"]["model"] = 0; }), ContainsSubstring("mesh.model: must be from 1 to"));
  CHECK_THAT(said([](j& s) { s["mesh"]["data"] = -2; }), ContainsSubstring("mesh.data: must be from 1 to"));
  CHECK_THAT(said([](j& s) { s["mesh"]["data"] = std::int64_t{1} << 40; }), ContainsSubstring("mesh.data"));
  CHECK_THAT(said([](j& s) { s["mesh"]["data"] = s["mesh"]["model"] = 1 << 20; }),
             ContainsSubstring("parts.model: lists 2 parts; a mesh of 1048576 x 1048576 ranks"));
  CHECK_THAT(said([](j& s) { s["mesh"]["model"] = 1; }), ContainsSubstring("parts.model: lists 2 parts"));
  CHECK_THAT(said([](j& s) { s["parts"] = j{}; }), ContainsSubstring("parts: is missing"));
  CHECK_THAT(said([](j& s) {
               s["parts"]["optimizer"] = std::vector<int>{1, -1};
             }),
             ContainsSubstring("parts.optimizer: must be a list"));
  CHECK_THAT(said([](j& s) { s["parts"]["optimizer"] = j::array(); }),
             ContainsSubstring("parts.optimizer: lists 0 parts"));
  CHECK_THAT(said([](j& s) { s["mark"] = j{}; }), ContainsSubstring("mark: is missing"));
  CHECK_THAT(said([](j& s) { s["mark"] = "none"; }), ContainsSubstring("mark: is not \"none\""));
  io::write_file_atomically(c.file("state.json"), R"({"format": 2})");
  CHECK_THAT(c.refusal(), ContainsSubstring("run: is missing"));
}

TEST_CASE("parts: no change of a byte does worse than be refused", "[train]") {
  checkpoint const c;
  random_sequence random{5, 6};
  auto const next = [&](std::size_t n) { return static_cast<std::size_t>(random.below(n)); };
  int refused = 0;
  for (auto const& file : {c.file("state.json"), c.part_of("model", 0), c.part_of("model", 1)}) {
    auto const good = io::read_file(file);
    for (int i = 0; i < 1500; ++i) {
      auto bad = good;
      for (auto n = 1 + next(3); n > 0; --n) {
        auto const at = next(std::min<std::size_t>(bad.size(), 420));
        if (next(3) == 0)
          bad.erase(at, 1 + next(3));
        else if (next(2) == 0)
          bad.insert(at, 1, "0123456789-,[]{}\":e"[next(19)]);
        else
          bad[at] = "0123456789-,[]{}\":e"[next(19)];
      }
      {
        auto const fd = io::descriptor{::open(file.c_str(), O_WRONLY | O_TRUNC)};
        REQUIRE(::write(fd.get(), bad.data(), bad.size()) == static_cast<ssize_t>(bad.size()));
      }
      refused += c.refusal().empty() ? 0 : 1;
    }
    io::write_file_atomically(file, good);
    REQUIRE(c.refusal().empty());
  }
  CHECK(refused > 3000);
}
