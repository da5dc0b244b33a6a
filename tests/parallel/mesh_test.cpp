// A mesh: who is whose neighbour along which axis, and that each axis talks for itself.
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "parallel/collectives.hpp"
#include <catch2/catch_all.hpp>
#include <string>
#include <thread>
#include <vector>

using namespace yoke;
using namespace yoke::parallel;
using collectives::failures;
using collectives::flat;

namespace {

/// The numbers in the whole of the ranks along an axis.
template <class C>
std::vector<std::int32_t> along(C& axis, int me) {
  std::vector<std::int32_t> mine{me}, all(static_cast<std::size_t>(axis.size()));
  all_gather(axis, flat(mine), flat(all));
  return all;
}

template <class C>
double sum(C& axis, double mine) {
  std::vector<double> one{mine};
  all_reduce(axis, flat(one));
  return one[0];
}

template <class C>
void axes_hold(C& all, mesh_shape across, failures& wrong) {
  mesh<C> grid{all, across};
  auto const me = all.rank(), group = me / across.model, share = me % across.model;
  wrong.unless(&grid.all() == &all && grid.shape() == across, "what it is made of");
  wrong.unless(grid.data().rank() == group && grid.data().size() == across.data, "place on the data axis");
  wrong.unless(grid.model().rank() == share && grid.model().size() == across.model,
               "place on the model axis");
  wrong.unless((grid.model_axis() != nullptr) == (across.model > 1), "a model axis where there is one");

  std::vector<std::int32_t> same_share, same_group;
  for (int r = 0; r < all.size(); ++r) {
    if (r % across.model == share)
      same_share.push_back(r);
    if (r / across.model == group)
      same_group.push_back(r);
  }
  wrong.unless(along(grid.data(), me) == same_share, "along the data axis");
  wrong.unless(along(grid.model(), me) == same_group, "along the model axis");
  if (auto* const axis = grid.model_axis()) {
    wrong.unless(along(*axis, me) == same_group, "along the model axis, for a tape");
    wrong.unless(grid.model().traffic().calls_of(collective::all_gather) == 2, "they are one communicator");
  }

  auto const total = [](auto const& ranks) {
    double t = 0;
    for (auto r : ranks) t += 1 << r;
    return t;
  };
  for (int i = 0; i < 100; ++i) {  // a sum over one axis while another thread sums over the other one
    double there = 0;
    std::thread behind{[&] { there = sum(grid.data(), 1 << me); }};
    auto const here = sum(grid.model(), 1 << me);
    behind.join();
    wrong.unless(there == total(same_share) && here == total(same_group), "sums");
  }
  wrong.unless(sum(all, 1) == all.size(), "the whole");
}

}  // namespace

TEST_CASE("a mesh's axes are rows and columns of its ranks", "[parallel][ranks]") {
  auto const across =
      GENERATE(mesh_shape{2, 2}, mesh_shape{4, 1}, mesh_shape{1, 4}, mesh_shape{2, 3}, mesh_shape{1, 1});
  CAPTURE(across.data, across.model);
  failures wrong;
  threads_group{across.ranks()}.run([&](threads& all) {
    axes_hold(all, across, wrong);
    any reference{all};
    axes_hold(reference, across, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("one rank is a mesh", "[parallel][ranks]") {
  solo alone;
  mesh<solo> grid{alone, {}};
  CHECK(grid.data().size() == 1);
  CHECK(grid.model_axis() == nullptr);
}

TEST_CASE("a mesh is of all ranks", "[parallel][ranks]") {
  solo alone;
  CHECK_THROWS_WITH((mesh<solo>{alone, {.data = 2, .model = 2}}),
                    Catch::Matchers::ContainsSubstring("2 x 2 ranks are all of the 1"));
  CHECK_THROWS_AS(threads_group{4}.run([](threads& all) { mesh<threads>(all, {.data = -2, .model = -2}); }),
                  precondition_error);
}
