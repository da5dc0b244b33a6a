// A CoAtNet trained on images of one size is loaded for images of another: its tables of relative positions are resized,
// all else is as it was; tables that cannot be are refused.
#include <yoke/contrastive/basic.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/trainer.hpp>

#include "data/data_files.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <vector>

using namespace yoke;
using device_type = cpu::context<float>;

namespace {

struct tiny {
  parameter_list list;
  contrastive::basic_model<> model;
  device_type device{mebibytes(8), mebibytes(2)};
  parameter_store<device_type> store{device, list};

  explicit tiny(contrastive::basic_config const& c) : model{contrastive::basic(scope{list}, c)} {
    initialize(device, list, 2, store);
  }
  view<float, 1> values(std::string const& name) const {
    auto const* const p = list.find(name);
    return slice(store.master(), p->offset, p->size());
  }
};

contrastive::basic_config sized(extent_t side) {
  auto config = contrastive::basic_preset("basic_tiny").value();
  config.image.image_size = side;
  return config;
}

}  // namespace

TEST_CASE("a checkpoint is read for images of another size") {
  data_files::temporary_folder const folder;
  auto const path = folder / "checkpoint";
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, sized(32));
  device_type device{mebibytes(8), mebibytes(2)};
  parallel::solo alone;
  train::trainer trainer{device, alone, model, list, {}};
  train::save_checkpoint(path, trainer, io::json::object());

  tiny large{sized(64)};
  train::load_parameters(path, large.device, large.list, large.store);
  int tables = 0;
  for (auto const& p : list.infos()) {
    INFO(p.name);
    auto const before = slice(trainer.store().master(), p.offset, p.size());
    auto const now = large.values(p.name);
    if (!p.name.ends_with(".table")) {
      CHECK(std::vector<float>(before.data, before.data + before.size()) ==
            std::vector<float>(now.data, now.data + now.size()));
      continue;
    }
    ++tables;
    auto const& there = large.list.find(p.name)->shape;
    CHECK(there[1] > p.shape[1]);
    std::vector<float> expected(static_cast<std::size_t>(now.size()));
    nn::resize_relative_table(view<float const, 3>{before.data, {{p.shape[0], p.shape[1], p.shape[2]}}},
                              view<float, 3>{expected.data(), {{there[0], there[1], there[2]}}});
    CHECK(expected == std::vector<float>(now.data, now.data + now.size()));
  }
  CHECK(tables > 1);

  tape<device_type> t{large.device, large.store.views(), {.record = false, .training = false}};
  std::vector<float> const pixels(64 * 64 * 3, 0.5f);
  CHECK(large.model.image(t, t.constant(view<float const, 4>{pixels.data(), {{1, 64, 64, 3}}})).shape ==
        shape{extent_t{1}, large.model.embedding});

  auto other = sized(32);
  other.image.head_width = 2;  // tables of more heads
  tiny wrong{other};
  CHECK_THROWS_WITH(train::load_parameters(path, wrong.device, wrong.list, wrong.store),
                    Catch::Matchers::ContainsSubstring("model.safetensors") &&
                        Catch::Matchers::ContainsSubstring(".table"));
}
