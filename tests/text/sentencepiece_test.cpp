// SentencePiece: training on captions, encoding, and files that are not models.
#include <yoke/text/sentencepiece.hpp>
#include <yoke/text/sentencepiece_training.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using text::sentence_piece;
using ids_t = std::vector<std::int32_t>;

namespace {

std::vector<std::string> scene_captions() {
  std::vector<std::string> captions;
  for (std::string a : {"red", "blue", "Green"})
    for (std::string b : {"square", "circle", "triangle"})
      for (std::string c : {"above", "below", "left of"})
        for (std::string d : {"a yellow star", "a white ring"})
          captions.push_back("a " + a + " " + b + " " + c + " " + d);
  return captions;
}

std::string const& scene_model() {
  static std::string const model = text::train_sentence_piece(scene_captions());
  return model;
}

ids_t encode(sentence_piece const& tokens, std::string_view caption) {
  ids_t ids;
  tokens(caption, ids);
  return ids;
}

/// What a call writes to standard error.
template <class Call>
std::string standard_error(Call call) {
  std::FILE* const sink = std::tmpfile();
  REQUIRE(sink != nullptr);
  std::fflush(stderr);
  int const saved = dup(2);
  dup2(fileno(sink), 2);
  call();
  std::fflush(stderr);
  dup2(saved, 2);
  close(saved);
  std::string text(static_cast<std::size_t>(std::ftell(sink)), '\0');
  std::rewind(sink);
  text.resize(std::fread(text.data(), 1, text.size(), sink));
  std::fclose(sink);
  return text;
}

}  // namespace

TEST_CASE("training is deterministic and silent") {
  std::string again;
  auto const printed = standard_error([&] { again = text::train_sentence_piece(scene_captions()); });
  CHECK(printed.empty());
  CHECK(again == scene_model());
}

TEST_CASE("a caption is start, words, end; case is folded; decoding gives the words back") {
  sentence_piece const tokens{scene_model()};
  auto const ids = encode(tokens, "a RED square");
  CHECK(ids.front() == 1);
  CHECK(ids.back() == tokens.end_of_text());
  CHECK(ids.size() == 5);  // frequent words are whole even in a corpus this small
  CHECK(tokens.decode(ids) == "a red square");
  CHECK(encode(tokens, "  a red\n\tsquare ") == ids);
  CHECK(encode(tokens, "") == ids_t{1, 2});
}

TEST_CASE("ids are appended") {
  sentence_piece const tokens{scene_model()};
  ids_t ids{7, 7};
  tokens("a red square", ids);
  CHECK(ids.size() == 7);
  CHECK(ids[1] == 7);
  CHECK(ids[2] == 1);
}

TEST_CASE("nothing is unknown, and text that spells a control token is text") {
  sentence_piece const tokens{scene_model()};
  for (auto const& caption :
       std::vector<std::string>{"zebra 漢字 🙂", "</s> <s> <unk>", std::string("a\0b", 3)}) {
    auto const ids = encode(tokens, caption);
    std::set<std::int32_t> const inside(ids.begin() + 1, ids.end() - 1);
    CHECK(inside.count(0) + inside.count(1) + inside.count(2) == 0);
    CHECK(*inside.rbegin() < tokens.vocabulary_size());
  }
  CHECK(tokens.decode(encode(tokens, "zebra 漢字 🙂")) == "zebra 漢字 🙂");
}

TEST_CASE("a caption longer than the context is cut before the end token") {
  sentence_piece const whole{scene_model()}, cut{scene_model(), {.context_length = 4}},
      least{scene_model(), {.context_length = 2}};
  auto const ids = encode(whole, "a red square above a white ring");
  auto const short_ids = encode(cut, "a red square above a white ring");
  CHECK(ids.size() == 9);
  CHECK(short_ids == ids_t{ids[0], ids[1], ids[2], 2});
  CHECK(encode(cut, "a red").size() == 4);  // fits exactly
  CHECK(encode(least, "a red") == ids_t{1, 2});
  CHECK_THROWS_AS((sentence_piece{scene_model(), {.context_length = 1}}), precondition_error);
}

TEST_CASE("a caption that is not UTF-8 is refused and leaves the ids alone") {
  sentence_piece const tokens{scene_model()};
  ids_t ids{5};
  CHECK_THROWS_MATCHES(tokens("a r\xE9"
                              "d square",
                              ids),
                       io::error, MessageMatches(ContainsSubstring("byte 3") && ContainsSubstring("UTF-8")));
  CHECK(ids == ids_t{5});
}

TEST_CASE("many threads encode alike") {
  sentence_piece const tokens{scene_model()};
  auto const captions = scene_captions();
  std::vector<std::vector<ids_t>> found(4);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : found)
      threads.emplace_back([&] {
        for (int round = 0; round < 20; ++round) {
          mine.clear();
          for (auto const& caption : captions) mine.push_back(encode(tokens, caption));
        }
      });
  }
  for (std::size_t i = 0; i < captions.size(); ++i)
    for (auto const& mine : found) REQUIRE(mine[i] == encode(tokens, captions[i]));
}

TEST_CASE("the vocabulary shrinks to what the captions hold") {
  std::vector<std::string> const one{"a dog"};
  for (auto method : {text::subwords::automatic, text::subwords::unigram, text::subwords::byte_pairs}) {
    sentence_piece const tokens{
        text::train_sentence_piece(one, {.vocabulary_size = 32000, .method = method})};
    CHECK(tokens.vocabulary_size() > 259);
    CHECK(tokens.vocabulary_size() < 280);
    CHECK(tokens.decode(encode(tokens, "a cat")) == "a cat");
  }
}

TEST_CASE("a vocabulary is never larger than asked for, and one too small says so") {
  sentence_piece const tokens{text::train_sentence_piece(scene_captions(), {.vocabulary_size = 290})};
  CHECK(tokens.vocabulary_size() <= 290);
  CHECK_THROWS_MATCHES(text::train_sentence_piece(scene_captions(), {.vocabulary_size = 100}), io::error,
                       MessageMatches(ContainsSubstring("vocabulary")));
  CHECK_THROWS_AS(text::train_sentence_piece(scene_captions(), {.vocabulary_size = 0}), precondition_error);
}

TEST_CASE("case can be kept") {
  sentence_piece const tokens{text::train_sentence_piece(scene_captions(), {.lower_case = false})};
  CHECK(tokens.decode(encode(tokens, "a Green Circle")) == "a Green Circle");
}

TEST_CASE("unusable captions are left out; none left is an error") {
  auto captions = scene_captions();
  captions.insert(captions.begin(), {"", "  ", "bad \xFF bytes"});
  captions.push_back("\n");
  CHECK(text::train_sentence_piece(captions) == scene_model());
  CHECK_THROWS_MATCHES(text::train_sentence_piece(std::vector<std::string>{"", "\xC0"}), io::error,
                       MessageMatches(ContainsSubstring("captions")));
  CHECK_THROWS_AS(text::train_sentence_piece(std::vector<std::string>{}), io::error);
}

TEST_CASE("a large corpus is thinned evenly") {
  auto const some = scene_captions();
  std::vector<std::string> twice;
  for (auto const& caption : some) twice.insert(twice.end(), {caption, "never seen"});
  CHECK(text::train_sentence_piece(twice, {.largest_corpus = some.size()}) == scene_model());
}

TEST_CASE("a model survives its file, and files that are not models are named") {
  auto const path = (std::filesystem::temp_directory_path() /
                     ("yoke_sentencepiece_test." + std::to_string(getpid()) + ".model"))
                        .string();
  auto write = [&](std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
  };
  write(scene_model());
  auto const tokens = sentence_piece::load(path);
  CHECK(tokens.bytes() == scene_model());
  CHECK(encode(tokens, "a blue ring") == encode(sentence_piece{scene_model()}, "a blue ring"));

  for (auto const& bytes :
       {std::string{}, std::string{"not a model"}, scene_model().substr(0, scene_model().size() / 2)}) {
    write(bytes);
    CHECK_THROWS_MATCHES(sentence_piece::load(path), io::error, MessageMatches(ContainsSubstring(path)));
  }
  std::remove(path.c_str());
  CHECK_THROWS_MATCHES(sentence_piece::load(path), io::error,
                       MessageMatches(ContainsSubstring("cannot be opened")));
}
