// expects: communicator<Ranks>.*Ranks = lonely|'lonely' does not satisfy 'communicator'
// A type that cannot gather, reduce and broadcast is no communicator: the error names the concept.
#include <yoke/dry/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/trainer.hpp>

#ifdef VALID
using lonely = yoke::parallel::solo;
#else
struct lonely {
  int rank() const { return 0; }
  int size() const { return 1; }
};
#endif

struct any_model {};
using trainer = yoke::train::trainer<yoke::dry::context<float>, lonely, any_model>;
