// Who wants to know when the gradient of a parameter is complete, while others are still being computed.
#pragma once
#include <yoke/core/tensor.hpp>

namespace yoke {

/// Told by tapes, in the order of their backward passes, what is being added to the gradient block.
class gradient_watch {
 public:
  gradient_watch() = default;
  gradient_watch(gradient_watch const&) = delete;
  gradient_watch& operator=(gradient_watch const&) = delete;
  virtual ~gradient_watch() = default;

  /// An operation asks for the gradient of the parameter at this offset.
  virtual void asked_for(extent_t offset) = 0;
  /// It has added to all that it asked for.
  virtual void added() = 0;
};

}  // namespace yoke
