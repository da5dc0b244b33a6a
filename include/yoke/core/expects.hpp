// Preconditions: always on, cheap, and they name the caller who broke them.
#pragma once
#include <stdexcept>
#include <string>

namespace yoke {

/// Thrown when a caller breaks a documented precondition; what() is "file:line: precondition
/// violated: rule".
struct precondition_error : std::logic_error {
  using std::logic_error::logic_error;
};

namespace detail {
[[noreturn]] inline void fail(char const* rule, char const* file, int line) {
  throw precondition_error(std::string(file) + ":" + std::to_string(line) +
                           ": precondition violated: " + rule);
}
}  // namespace detail

/// Throws precondition_error unless `holds`. The default arguments are the caller's file and line.
inline void expects(bool holds, char const* rule, char const* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  if (!holds) [[unlikely]]
    detail::fail(rule, file, line);
}

/// The same for a rule with figures in it: `message` is called only when the rule is broken.
template <class Message>
requires requires(Message m) {
  std::string(m());
}
void expects(bool holds, Message const& message, char const* file = __builtin_FILE(),
             int line = __builtin_LINE()) {
  if (!holds) [[unlikely]]
    detail::fail(std::string(message()).c_str(), file, line);
}

}  // namespace yoke
