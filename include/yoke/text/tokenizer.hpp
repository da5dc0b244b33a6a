// What turns a caption into ids. Loaders, trainers and evaluations take any type that satisfies
// this.
#pragma once
#include <yoke/core/tensor.hpp>

#include <concepts>
#include <cstdint>
#include <string_view>
#include <vector>

namespace yoke::text {

/// Calling a tokenizer appends a caption's ids: a start token (where the vocabulary has one), the
/// words, the end token. At most context_length() ids are appended; words are cut to make room, the
/// end token never is, because causal towers pool there. Ids are in [0, vocabulary_size()). A
/// caption that is not UTF-8 throws io::error and appends nothing. Safe to call from many threads.
template <class T>
concept tokenizer = requires(T const& t, std::string_view caption, std::vector<std::int32_t>& ids) {
  t(caption, ids);
  { t.context_length() } -> std::convertible_to<extent_t>;
  { t.vocabulary_size() } -> std::convertible_to<extent_t>;
  { t.end_of_text() } -> std::convertible_to<std::int32_t>;
};

}  // namespace yoke::text
