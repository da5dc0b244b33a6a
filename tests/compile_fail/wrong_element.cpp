// expects: a tape's values have its context's element type
// Single-precision data on a bf16 tape.
#include <yoke/autograd/tape.hpp>
#include <yoke/dry/context.hpp>

#ifdef VALID
using number = yoke::bf16;
#else
using number = float;
#endif

void use(yoke::tape<yoke::dry::context<yoke::bf16>>& tape, yoke::view<number, 2> pixels) {
  tape.constant(pixels);
}
