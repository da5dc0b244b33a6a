// Work with files that succeeds on every rank or on none.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/texts.hpp>

#include <chrono>
#include <exception>
#include <string>
#include <vector>

namespace yoke::train {

/// Where a rank is among those of a trainer.
struct place_in_mesh {
  parallel::mesh_shape mesh;
  int data = 0, model = 0;

  template <class Trainer>
  static place_in_mesh of(Trainer& trainer) {
    auto const* const axis = trainer.model_axis();
    return {{trainer.ranks().size(), axis == nullptr ? 1 : axis->size()},
            trainer.ranks().rank(),
            axis == nullptr ? 0 : axis->rank()};
  }
  /// Among all.
  int rank() const { return data * mesh.model + model; }
};

/// Calls f(), which returns a text, on every rank, and returns all texts in the order of ranks. Where it throws on one,
/// every rank throws io::error: "place: rank 2: what it threw". Called by every rank of a trainer; one rank may need an
/// hour longer than the others.
template <class Trainer, class F>
std::vector<std::string> on_every_rank(Trainer& trainer, std::string const& place, F const& f) {
  if (place_in_mesh::of(trainer).mesh.ranks() == 1)
    return {f()};
  std::string result, failure;
  try {
    result = f();
  } catch (std::exception const& e) {
    failure = e.what();
    failure += failure.empty() ? "something without a name went wrong" : "";
  }
  constexpr auto patience = std::chrono::hours{1};
  auto said = parallel::all_gather_texts(trainer.ranks(), trainer.model_axis(),
                                         {std::move(failure), std::move(result)}, patience);
  std::vector<std::string> results;
  for (std::size_t i = 0; i < said.size(); i += 2) {
    if (!said[i].empty())
      throw io::error(place, "rank " + std::to_string(i / 2), said[i]);
    results.push_back(std::move(said[i + 1]));
  }
  return results;
}

}  // namespace yoke::train
