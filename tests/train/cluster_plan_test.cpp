// Steps on many devices: what they are predicted to take, and which mesh is the best.
#include <yoke/train/cluster_plan.hpp>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr train::cluster simple{.devices_per_host = 4,
                                .bandwidth_within_host = 100,
                                .bandwidth_between_hosts = 10,
                                .latency = 0.5,
                                .peak_flops = 1000,
                                .utilization = 0.5};

train::step_plan plan(double along_data, double along_model) {
  train::step_plan p{.multiply_adds = 1000};
  p.data_axis.count(parallel::collective::all_reduce, along_data);
  p.model_axis.count(parallel::collective::all_gather, along_model);
  p.model_axis.count(parallel::collective::reduce_scatter, along_model);
  return p;
}

}  // namespace

TEST_CASE(
    "a step's seconds are its arithmetic, and each axis' bytes over the slowest link on it and its calls") {
  auto const p = plan(200, 50);
  auto const alone = train::predict(p, {1, 1}, simple);
  CHECK(alone.total() == Approx(2 * 1000 / 500.0));
  CHECK(alone.communication_share() == 0);

  auto const host = train::predict(p, {2, 2}, simple);  // four devices: one host
  CHECK(host.data_axis == Approx(200 / 100.0 + 0.5));
  CHECK(host.model_axis == Approx(100 / 100.0 + 2 * 0.5));
  CHECK(host.total() == Approx(4 + 2.5 + 2));
  CHECK(host.communication_share() == Approx(4.5 / 8.5));

  auto const hosts = train::predict(p, {4, 2}, simple);
  CHECK(hosts.data_axis == Approx(200 / 10.0 + 0.5));
  CHECK(hosts.model_axis == Approx(2));  // neighbours: still within a host
  CHECK(train::predict(p, {1, 8}, simple).model_axis == Approx(100 / 10.0 + 1));
}

TEST_CASE("the best mesh is the fastest of those that fit and divide what there is") {
  std::vector<parallel::mesh_shape> tried;
  std::vector<extent_t> batches;
  auto const best_of = [&](int devices, extent_t batch, int most_model, auto const& fits) {
    tried.clear();
    batches.clear();
    return train::best_mesh(devices, batch, most_model, simple,
                            [&](parallel::mesh_shape mesh, extent_t local) {
                              tried.push_back(mesh);
                              batches.push_back(local);
                              std::optional<train::fitted_step> found;
                              if (fits(mesh))
                                found = {.plan = plan(100, mesh.model > 1 ? 1000 : 0)};
                              return found;
                            });
  };
  auto const all = best_of(8, 64, 8, [](auto) { return true; });
  CHECK(tried == std::vector<parallel::mesh_shape>{{8, 1}, {4, 2}, {2, 4}, {1, 8}});
  CHECK(batches == std::vector<extent_t>{8, 16, 32, 64});
  REQUIRE(all);
  CHECK(all->mesh == parallel::mesh_shape{8, 1});  // the model axis sends much
  auto const sharded = best_of(8, 64, 4, [](auto mesh) { return mesh.model > 1; });
  REQUIRE(sharded);
  CHECK(sharded->mesh == parallel::mesh_shape{4, 2});
  CHECK(tried.size() == 3);
  CHECK(!best_of(8, 64, 8, [](auto) { return false; }));
  best_of(12, 6, 8, [](auto) { return true; });  // 12 devices have no axis of 8; 6 pairs no 12 parts
  CHECK(tried == std::vector<parallel::mesh_shape>{{6, 2}, {3, 4}});
}

TEST_CASE("a table of clusters says what it assumes, and where nothing fits") {
  CHECK_THAT(train::assumptions({}), ContainsSubstring("989 TFLOP/s a device at 40 %; 8 devices a host") &&
                                         ContainsSubstring("450 GB/s") && ContainsSubstring("20 us"));
  CHECK_THAT(train::cluster_line(8, "80GB", {}), ContainsSubstring("8     80GB  no mesh fits"));
  train::cluster_step const found{
      .mesh = {4, 2},
      .step = {.remat = rematerialize::blocks, .micro_batch = 16, .plan = plan(1024, 512)},
      .time = {1, 0.5, 0.5}};
  CHECK_THAT(train::cluster_line(8, "80GB", found), ContainsSubstring("4 x 2") &&
                                                        ContainsSubstring("blocks") &&
                                                        ContainsSubstring("2.00 s  50.0 %"));
  auto const head = train::cluster_header(), line = train::cluster_line(8, "80GB", found);
  CHECK(head.size() == line.size());
}
