// Class names in prompt templates: the captions that stand for the classes.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/data/prompts.hpp>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace yoke::eval {

using data::default_templates, data::read_class_names, data::read_templates;

/// Every class in every template, the templates of one class side by side: what
/// class_weights expects its rows to embed.
inline std::vector<std::string>
prompts(std::span<std::string const> names,
        std::span<std::string const> templates) {
  std::vector<std::string> result;
  result.reserve(names.size() * templates.size());
  for (auto const &name : names)
    for (auto const &frame : templates) {
      auto const at = data::detail::placeholder(frame);
      expects(at != std::string_view::npos,
              "prompts: exactly one {} or %s in each template");
      result.push_back(frame.substr(0, at) + name + frame.substr(at + 2));
    }
  return result;
}

} // namespace yoke::eval
