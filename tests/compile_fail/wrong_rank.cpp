// expects: parameter<1>.*parameter<2>
// A vector where a linear layer wants its matrix: the error names both ranks.
#include <yoke/dry/context.hpp>
#include <yoke/ops/linear.hpp>

#ifdef VALID
constexpr int rank = 2;
#else
constexpr int rank = 1;
#endif

void use(yoke::tape<yoke::dry::context<float>>& tape, yoke::value<2> x, yoke::parameter<rank> weight) {
  yoke::ops::linear(tape, x, weight);
}
