// What ranks say to each other in words: how a piece of work went, where a file is, what each has to add to a list.
#pragma once
#include <yoke/parallel/any.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace yoke::parallel {

/// The texts of all ranks, in the order of ranks. Each rank brings equally many.
template <communicator Ranks>
std::vector<std::string> all_gather_texts(Ranks& ranks, std::vector<std::string> const& mine) {
  auto const size = static_cast<std::size_t>(ranks.size());
  auto const rank = static_cast<std::size_t>(ranks.rank());
  std::vector<std::int64_t> lengths_here, lengths(mine.size() * size);
  for (auto const& text : mine) lengths_here.push_back(static_cast<std::int64_t>(text.size()));
  all_gather(ranks, view<std::int64_t const, 1>{lengths_here.data(), {{std::ssize(lengths_here)}}},
             view<std::int64_t, 1>{lengths.data(), {{std::ssize(lengths)}}});

  std::vector<extent_t> begins(1, 0);
  for (std::size_t r = 0, i = 0; r < size; ++r) {
    begins.push_back(begins.back());
    for (std::size_t n = 0; n < mine.size(); ++n) begins.back() += lengths[i++];
  }
  std::vector<std::uint8_t> all(static_cast<std::size_t>(begins.back()));
  auto place = all.begin() + begins[rank];
  for (auto const& text : mine) place = std::copy(text.begin(), text.end(), place);
  if (!all.empty())
    all_gather_parts(ranks, view<std::uint8_t, 1>{all.data(), {{begins.back()}}}, begins);

  std::vector<std::string> texts;
  auto next = all.begin();
  for (auto const length : lengths) {
    texts.emplace_back(next, next + length);
    next += length;
  }
  return texts;
}

/// What each rank of a mesh has to say of work of its own, such as with files, in the order of the ranks of the whole, as
/// mesh numbers them. The axes are `data` and, unless it is null, `model_axis`. A rank may be later than the others by
/// `patience`. Each rank brings equally many texts.
template <communicator Ranks>
std::vector<std::string> all_gather_texts(Ranks& data, any* model_axis, std::vector<std::string> texts,
                                          std::chrono::milliseconds patience) {
  if (model_axis != nullptr) {
    detail::wait_for_late(*model_axis, patience);
    texts = all_gather_texts(*model_axis, texts);
  }
  detail::wait_for_late(data, patience);
  return all_gather_texts(data, texts);
}

}  // namespace yoke::parallel
