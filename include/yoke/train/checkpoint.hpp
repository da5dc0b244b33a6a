// A training run on disk: one folder that is complete or not there, and from which training goes on bitwise, on the same
// ranks or on others.
#pragma once
#include <yoke/io/folder.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/train/checkpoint_parts.hpp>
#include <yoke/train/checkpoint_tensors.hpp>
#include <yoke/train/learner.hpp>
#include <yoke/train/together.hpp>
#include <yoke/version.hpp>

#include <array>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::train {

/// Files of the caller that go into a checkpoint beside its own: name and content.
using checkpoint_files = std::vector<std::pair<std::string, std::string>>;

namespace detail {

template <class Trainer, class More>
auto parameters_of(Trainer& trainer, More const& more) {
  return [&](auto const& f) {
    for_each_tensor(trainer.list(), trainer.store(), f);
    more(f);
  };
}
template <class Trainer>
auto moments_of(Trainer& trainer) {
  return [&trainer](auto const& f) { trainer.optimizer().for_each_tensor(f); };
}

/// Equal for equal steps and parameters, and practically never else: 16 hexadecimal digits.
template <class Trainer>
std::string mark_of(Trainer& trainer) {
  auto const f = fingerprint_of(trainer.context(), trainer.list(), trainer.store());
  auto const number = mix(mix(static_cast<std::uint64_t>(trainer.state().step), f.whole), f.shares);
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(number));
  return digits.data();
}

/// state.json, of which `written` has what each rank says of its part: bytes of each kind, and its `run`.
template <class Trainer>
io::json state_of(Trainer& trainer, std::string const& mark, std::vector<std::string> const& written) {
  auto const mesh = place_in_mesh::of(trainer).mesh;
  auto const& s = trainer.state();
  io::json state, parts, runs = io::json::array();
  for (std::size_t rank = 0; rank < written.size(); ++rank) {
    auto const said = io::parse_json(written[rank], "rank " + std::to_string(rank)).elements();
    for (std::size_t i = 0; i < checkpoint_manifest::kinds.size(); ++i)
      parts[checkpoint_manifest::kinds[i]].push_back(said[i]);
    if (rank % static_cast<std::size_t>(mesh.model) == 0)
      runs.push_back(said.back());
  }
  state["format"] = mesh.ranks() == 1 ? 1 : 2;
  state["yoke"] = version;
  state["optimizer"] = trainer.optimizer().name();
  state["trainer"]["step"] = s.step;
  state["trainer"]["updates"] = s.updates;
  state["trainer"]["skipped"] = s.skipped;
  state["trainer"]["skipped_in_a_row"] = s.skipped_in_a_row;
  if (mesh.ranks() > 1) {
    state["mesh"]["data"] = mesh.data;
    state["mesh"]["model"] = mesh.model;
    state["mark"] = mark;
    state["parts"] = std::move(parts);
  }
  state["run"] = runs.elements()[0];
  if (mesh.data > 1)
    state["runs"] = std::move(runs);
  return state;
}

/// What the ranks of a mesh have found: [which checkpoint, tensors of which a rank is the owner], as JSON. They must have
/// found the same one; returns how many tensors have an owner.
inline std::size_t count_of_one_checkpoint(std::string const& path, parallel::mesh_shape const& mesh,
                                           std::vector<std::string> const& found) {
  std::size_t owned = 0;
  std::string first;
  for (int rank = 0; rank < mesh.ranks(); ++rank) {
    auto const name = "rank " + std::to_string(rank);
    auto const said = io::parse_json(found[static_cast<std::size_t>(rank)], name).elements();
    auto const which = said[0].as<std::string>().value();
    if (rank == 0)
      first = which;
    if (which != first)
      throw io::error(path, name, "finds " + which + " where rank 0 finds " + first);
    if (rank % mesh.model == 0)
      owned += said[1].as<std::size_t>().value();
  }
  return owned;
}

}  // namespace detail

/// No parameters beside the trainer's own.
struct nothing_more {
  void operator()(auto const&) const {}
};

/// Parameters beside those of a trainer that are part of its model and its checkpoints: a frozen tower's, which all ranks
/// of the data axis have.
template <class Store>
auto parameters_of(parameter_list const& list, Store const& store) {
  return [&](auto const& f) { detail::for_each_tensor(list, store, f); };
}

/// Writes the trainer, what `run` says of the caller's own state (data position, configuration), and the caller's
/// files to the folder `path`, replacing the checkpoint there in one step. Until then, and whatever fails on whichever
/// rank (io::error on all of them), the old one stays. Every rank calls it and writes its part, so `path` is on a file
/// system that all of them see. `run` is kept of each rank of the data axis, `files` of rank 0. `more` are further
/// parameters of the model, as parameters_of gives them.
template <class Trainer, class More = nothing_more>
void save_checkpoint(std::string const& path, Trainer& trainer, io::json const& run,
                     checkpoint_files const& files = {}, More const& more = {}) {
  auto const here = place_in_mesh::of(trainer);
  auto const ranks = static_cast<std::size_t>(here.mesh.ranks()),
             rank = static_cast<std::size_t>(here.rank());
  auto const several = ranks > 1, first = rank == 0;
  auto& c = trainer.context();
  std::optional<io::folder_writer> folder;  // rank 0's
  auto const places = on_every_rank(
      trainer, path, [&] { return first ? folder.emplace(path, "state.json").temporary() : std::string{}; });
  auto const marks = on_every_rank(
      trainer, path, [&] { return first && several ? detail::mark_of(trainer) : std::string{}; });
  auto const part = [&](std::size_t kind, std::size_t r) {
    return places[0] + "/" + part_name(checkpoint_manifest::kinds[kind], r, ranks);
  };
  auto const written = on_every_rank(trainer, path, [&] {
    if (!io::detail::is_folder(places[0]))
      throw io::error(places[0], "",
                      "this rank does not see the folder: all ranks share the file system of a checkpoint");
    io::json said;
    said.push_back(
        detail::write_part(c, part(0, rank), here, marks[0], detail::parameters_of(trainer, more)));
    said.push_back(detail::write_part(c, part(1, rank), here, marks[0], detail::moments_of(trainer)));
    said.push_back(here.model == 0 ? run : io::json{});
    return said.dump();
  });
  on_every_rank(trainer, path, [&] {
    if (!first)
      return std::string{};
    for (auto const& [name, content] : files) folder->write(name, content);
    folder->write("state.json", detail::state_of(trainer, marks[0], written).dump(2) + "\n");
    if (several) {  // what cannot be read replaces nothing
      checkpoint_manifest const manifest{places[0]};
      for (auto const kind : checkpoint_manifest::kinds) saved_tensors{manifest, kind};
    }
    folder->commit();
    return std::string{};
  });
}

/// What save_checkpoint was given as `run` by rank 0. io::error when there is no checkpoint of a form that is known.
inline io::json read_run(std::string const& path) {
  return *checkpoint_manifest{path}.state().find("run");
}

/// The same of each rank of the data axis that saved it.
inline std::vector<io::json> read_runs(std::string const& path) {
  checkpoint_manifest const manifest{path};
  auto const* const runs = manifest.state().find("runs");
  if (manifest.data_ranks() == 1)
    return {*manifest.state().find("run")};
  if (runs == nullptr || runs->kind() != io::json_kind::array ||
      std::ssize(runs->elements()) != manifest.data_ranks())
    throw io::error(manifest.file(), "runs",
                    "is a list with an entry for each of the " + std::to_string(manifest.data_ranks()) +
                        " ranks of the data axis");
  return runs->elements();
}

/// Reads the parameters of a checkpoint into a parameter_store or frozen_parameters, for use, or for another phase of
/// training. All of them, which must be all that the checkpoint has; or those whose names begin with `prefix`, such as
/// "image.". Whichever of f32 and bf16 either side has. Tables of relative positions (CoAtNet's) are resized where the
/// model is for images of another size. Of several ranks each reads what it holds, and the compute copy of all.
template <class C, class Store>
void load_parameters(std::string const& path, C& c, parameter_list const& list, Store& store,
                     std::string_view prefix = {}) {
  saved_tensors const saved{checkpoint_manifest{path}, checkpoint_manifest::kinds[0]};
  std::size_t wanted = 0;
  auto const each = [&](auto const& f) {
    detail::for_each_tensor(list, store, [&](tensor_place const& t, int, auto values) {
      if (t.name.starts_with(prefix))
        f(t, values);
    });
  };
  each([&](tensor_place const& t, auto) {
    auto const& found = saved.at(t.name);
    if (!detail::is_table_of_another_grid(t.name, t.whole(), found.shape()))
      saved.expect(t, found.type);
    ++wanted;
  });
  if (wanted == 0)
    throw io::error(saved.path(), prefix, "the model has no parameters whose names begin so");
  if (prefix.empty())
    saved.expect_count(wanted, "the model");
  each([&]<class V>(tensor_place const& t, view<V, 1> values) {
    if (values.size() > 0)
      write_from_host(c, values, [&](view<V, 1> v) { detail::read_converted(saved, t, v); });
  });
  if constexpr (requires { store.compute(); })
    for (auto const& p : list.infos())  // what others own is not made from master values here
      if (!store.master_block().holds(p) && p.name.starts_with(prefix))
        write_from_host(c, slice(store.compute(), p.offset, p.size()),
                        [&](auto v) { detail::read_converted(saved, p, v); });
  store.refresh(c);
}

/// Brings a trainer of the same model to where the checkpoint's was, whichever mesh of ranks saved it: the steps that
/// follow on the same mesh are bitwise those that would have followed. Every rank calls it. `more` as for
/// save_checkpoint; who owns those parameters refreshes their compute copy. Throws io::error on every rank, naming file,
/// tensor and rule, before the trainer's counters change.
template <class Trainer, class More = nothing_more>
void load_checkpoint(std::string const& path, Trainer& trainer, More const& more = {}) {
  auto const here = place_in_mesh::of(trainer);
  auto const parameters = detail::parameters_of(trainer, more);
  auto const moments = detail::moments_of(trainer);
  std::optional<saved_tensors> saved_parameters, saved_moments;
  trainer_state state;
  auto const found = on_every_rank(trainer, path, [&] {
    checkpoint_manifest const manifest{path};
    io::json_fields fields{manifest.state(), manifest.file()};
    std::string const optimizer = trainer.optimizer().name();
    if (auto const saved = fields.template optional<std::string>("optimizer", optimizer); saved != optimizer)
      fields.fail("optimizer", "is " + saved + "; the run that would go on has " + optimizer);
    auto counters = fields.object("trainer");
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    state.step = counters.template in_range<std::int64_t>("step", 0, most);
    state.updates = counters.template in_range<std::int64_t>("updates", 0, most);
    state.skipped = counters.template in_range<std::int64_t>("skipped", 0, most);
    state.skipped_in_a_row = counters.template in_range<std::int64_t>("skipped_in_a_row", 0, most);
    saved_parameters.emplace(manifest, checkpoint_manifest::kinds[0]);
    saved_moments.emplace(manifest, checkpoint_manifest::kinds[1]);
    saved_parameters->expect_count(
        detail::expect_tensors(*saved_parameters, parameters, [](int) { return true; }), "the model");
    io::json said;
    said.push_back("step " + std::to_string(state.step) + " " + manifest.mark());
    said.push_back(
        detail::expect_tensors(*saved_moments, moments, [&](int owner) { return owner == here.data; }));
    return said.dump();
  });
  saved_moments->expect_count(detail::count_of_one_checkpoint(path, here.mesh, found), "the optimiser");
  on_every_rank(trainer, path, [&] {
    detail::read_tensors(trainer.context(), *saved_parameters, parameters);
    detail::read_tensors(trainer.context(), *saved_moments, moments);
    return std::string{};
  });
  trainer.resume(state);
}

}  // namespace yoke::train
