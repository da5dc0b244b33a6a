// Ranks as a grid: along one axis they share out the batch, along the other the model.
#pragma once
#include <yoke/parallel/any.hpp>

#include <string>

namespace yoke::parallel {

/// Extents of a mesh.
struct mesh_shape {
  int data = 1;   // groups, each of which has its own part of every batch
  int model = 1;  // ranks of a group, each of which has its share of the sharded parameters

  int ranks() const { return data * model; }
  bool operator==(mesh_shape const&) const = default;
};

/// Rank r of the whole is at r / model along the data axis and at r % model along the model axis: neighbours share a
/// model, so that launchers, which number the ranks of a machine one after the other, put them on one machine.
template <communicator Ranks>
class mesh {
 public:
  /// Every rank of `all` makes one with the same shape. `all` outlives it.
  mesh(Ranks& all, mesh_shape s)
      : all_{&all},
        shape_{checked(s, all.size())},
        data_{split(all, all.rank() % s.model)},
        model_{split(all, all.rank() / s.model)},
        any_model_{model_} {}
  mesh(mesh const&) = delete;
  mesh& operator=(mesh const&) = delete;

  Ranks& all() const { return *all_; }
  mesh_shape const& shape() const { return shape_; }
  /// The ranks that hold the same share of the model: losses, gradients and optimiser state go along this axis.
  Ranks& data() { return data_; }
  /// The ranks that hold the shares of one model.
  Ranks& model() { return model_; }
  /// For tape_options::model_axis, trainer options and planned steps; null where nothing is sharded.
  any* model_axis() { return shape_.model > 1 ? &any_model_ : nullptr; }

 private:
  static mesh_shape checked(mesh_shape s, int ranks) {
    expects(s.data > 0 && s.model > 0 && s.ranks() == ranks, [&] {
      return "mesh: " + std::to_string(s.data) + " x " + std::to_string(s.model) + " ranks are all of the " +
             std::to_string(ranks) + " that there are";
    });
    return s;
  }

  Ranks* all_;
  mesh_shape shape_;
  Ranks data_, model_;
  any any_model_;
};

}  // namespace yoke::parallel
