// expects: parameter<1>.* to .*parameter<2>
// A vector where a linear layer wants its matrix: the error names both ranks.
#include <yoke/dry/context.hpp>
#include <yoke/ops/linear.hpp>

#ifdef VALID
using weights = yoke::parameter<2>;
#else
using weights = yoke::parameter<1>;
#endif

void use(yoke::tape<yoke::dry::context<float>>& tape, yoke::value<2> x, weights w) {
  yoke::ops::linear(tape, x, w);
}
