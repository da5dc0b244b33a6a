// Every op against central differences on the CPU; and that the check itself finds what is wrong.
#include <yoke/cpu/context.hpp>

using device_context = yoke::cpu::context<double>;
#include "ops/gradients.hpp"

namespace {

/// The identity, but for one element of its gradient.
struct wrong_op {
  template <class C>
  auto forward(tape<C>& t, value<2> const& x) const {
    auto y = make<double>(t.context(), x.shape);
    convert(t.context(), as_flat(t(x)), as_flat(y), store::overwrite);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<double const, 2> dy, value<2> const& x) const {
    auto dx = t.gradient_of(x);
    convert(t.context(), as_flat(dy), as_flat(dx.data), dx.how);
    dx.data.data[3] *= 1.001;
  }
};

}  // namespace

TEST_CASE("a wrong gradient is found", "[gradient]") {
  cpu::context<double> c{mebibytes(1), mebibytes(1)};
  auto const result = gradient_check(
      c, {}, [](auto& t, value<2> x) { return t.apply(wrong_op{}, x); }, {}, shape{2, 3});
  CHECK(result.worst > 1e-5);
  CHECK(result.where == "input 0 element 3");
}
