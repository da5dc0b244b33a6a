// expects: activation_forward.*was not declared|undeclared identifier .activation_forward
// A context without a kernel that a model calls: the error names the kernel.
#include <yoke/core/backend.hpp>
#include <yoke/ops/pointwise.hpp>

namespace mine {

struct context {
  using element = float;
  using accumulator = float;
  static constexpr yoke::device_traits traits{};
  template <class V>
  struct buffer {};
  yoke::stack_arena memory;
  yoke::pool_arena gradient_memory;
  yoke::host_stack host;
};

template <class... Rest>
void activation_backward(context&, Rest&&...) {}
#ifdef VALID
template <class... Rest>
void activation_forward(context&, Rest&&...) {}
#endif

}  // namespace mine

void use(yoke::tape<mine::context>& tape, yoke::value<2> x) {
  yoke::ops::activate(tape, x);
}
