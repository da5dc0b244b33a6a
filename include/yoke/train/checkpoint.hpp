// A training run on disk: one folder that is complete or not there, and from which training goes on bitwise.
#pragma once
#include <yoke/io/folder.hpp>
#include <yoke/io/json.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/io/safetensors_writer.hpp>
#include <yoke/nn/relative_table.hpp>
#include <yoke/train/learner.hpp>
#include <yoke/version.hpp>

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::train {

/// Files of the caller that go into a checkpoint beside its own: name and content.
using checkpoint_files = std::vector<std::pair<std::string, std::string>>;

namespace detail {

/// Calls f(name, shape, elements) for the learned numbers of a store, then for its running statistics.
template <class Store, class F>
void for_each_tensor(parameter_list const& list, Store const& store, F const& f) {
  for (auto const& p : list.infos())
    store.master_block().visit(p, [&](auto values) { f(p.name, p.shape, values); });
  for (auto const& s : list.statistics()) f(s.name, s.shape, slice(store.statistics(), s.offset, s.size));
}

/// Writes the tensors that `each` calls its argument with: name, shape, elements in the context's memory.
template <class C, class Each>
void write_tensors(C& c, std::string const& path, Each const& each) {
  std::vector<io::tensor_declaration> tensors;
  each([&]<class V>(std::string const& name, std::vector<extent_t> const& shape, view<V, 1>) {
    tensors.push_back({name, io::dtype_of<V>(), shape});
  });
  io::safetensors_writer file{path, tensors};
  each([&]<class V>(std::string const& name, std::vector<extent_t> const&, view<V, 1> values) {
    read_on_host(c, view<V const, 1>{values}, [&](view<V const, 1> v) {
      file.append(name, std::span<V const>{v.data, static_cast<std::size_t>(v.size())});
    });
  });
  file.finish();
}

/// The inverse. Everything is checked before anything is read.
template <class C, class Each>
void read_tensors(C& c, std::string const& path, Each const& each) {
  io::safetensors_file const file{path};
  std::size_t wanted = 0;
  each([&]<class V>(std::string const& name, std::vector<extent_t> const& shape, view<V, 1>) {
    file.expect(name, io::dtype_of<V>(), shape);
    ++wanted;
  });
  if (file.tensors().size() != wanted)
    throw io::error(path, "",
                    "the file holds " + std::to_string(file.tensors().size()) + " tensors, the model " +
                        std::to_string(wanted));
  each([&]<class V>(std::string const& name, std::vector<extent_t> const&, view<V, 1> values) {
    write_from_host(c, values, [&](view<V, 1> v) {
      file.read(name, std::span<V>{v.data, static_cast<std::size_t>(v.size())});
    });
  });
}

/// Reads a tensor of the file, be it f32 or bf16, as V's.
template <class V>
void read_converted(io::safetensors_file const& file, std::string const& name, view<V, 1> to) {
  auto const convert_from = [&]<class From>(From) {
    auto const values = file.read<From>(name);
    using A = accumulator_t<V>;
    for (std::size_t i = 0; i < values.size(); ++i) to.data[i] = static_cast<V>(static_cast<A>(values[i]));
  };
  if (auto const type = file.at(name).type; type == io::dtype_of<V>())
    file.read(name, std::span<V>{to.data, static_cast<std::size_t>(to.size())});
  else if (type == io::dtype::bf16)
    convert_from(bf16{});
  else
    convert_from(float{});  // any other type is refused
}

/// Whether a parameter is a table of relative positions for one grid and the tensor of the file one for another.
inline bool is_table_of_another_grid(std::string_view name, std::vector<extent_t> const& shape,
                                     std::vector<extent_t> const& in_file) {
  return name.ends_with(".table") && shape.size() == 3 && in_file.size() == 3 && shape[0] == in_file[0] &&
         (shape[1] != in_file[1] || shape[2] != in_file[2]) && in_file[1] % 2 == 1 && in_file[2] % 2 == 1;
}

/// Reads a table of relative positions and resizes it.
template <class V>
void read_resized(io::safetensors_file const& file, std::string const& name,
                  std::vector<extent_t> const& shape, view<V, 1> to) {
  using A = accumulator_t<V>;
  auto const& in_file = file.at(name).shape;
  yoke::shape<3> const old{{in_file[0], in_file[1], in_file[2]}};
  std::vector<A> values(static_cast<std::size_t>(old.size()));
  read_converted(file, name, view<A, 1>{values.data(), {{old.size()}}});
  std::vector<A> resized(static_cast<std::size_t>(to.size()));
  nn::resize_relative_table(view<A const, 3>{values.data(), old},
                            view<A, 3>{resized.data(), {{shape[0], shape[1], shape[2]}}});
  for (std::size_t i = 0; i < resized.size(); ++i) to.data[i] = static_cast<V>(resized[i]);
}

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

}  // namespace detail

/// No parameters beside the trainer's own.
struct nothing_more {
  void operator()(auto const&) const {}
};

/// Parameters beside those of a trainer that are part of its model and its checkpoints: a frozen tower's.
template <class Store>
auto parameters_of(parameter_list const& list, Store const& store) {
  return [&](auto const& f) { detail::for_each_tensor(list, store, f); };
}

/// Writes the trainer, what `run` says of the caller's own state (data position, configuration), and the caller's
/// files to the folder `path`, replacing the checkpoint there in one step. Until then, and whatever fails (io::error),
/// the old one stays. One rank writes. `more` are further parameters of the model, as parameters_of gives them.
template <class Trainer, class More = nothing_more>
void save_checkpoint(std::string const& path, Trainer& trainer, io::json run,
                     checkpoint_files const& files = {}, More const& more = {}) {
  io::folder_writer folder{path, "state.json"};
  auto& c = trainer.context();
  detail::write_tensors(c, folder.file("model.safetensors"), detail::parameters_of(trainer, more));
  detail::write_tensors(c, folder.file("optimizer.safetensors"), detail::moments_of(trainer));
  for (auto const& [name, content] : files) folder.write(name, content);

  auto const& s = trainer.state();
  io::json state;
  state["format"] = 1;
  state["yoke"] = version;
  state["optimizer"] = trainer.optimizer().name();
  state["trainer"]["step"] = s.step;
  state["trainer"]["updates"] = s.updates;
  state["trainer"]["skipped"] = s.skipped;
  state["trainer"]["skipped_in_a_row"] = s.skipped_in_a_row;
  state["run"] = std::move(run);
  folder.write("state.json", state.dump(2) + "\n");
  folder.commit();
}

/// What save_checkpoint was given as `run`. io::error when there is no checkpoint of a form that is known.
inline io::json read_run(std::string const& path) {
  auto const file = io::committed_folder(path) + "/state.json";
  auto const state = io::read_json(file);
  io::json_fields fields{state, file};
  if (auto const format = fields.template required<int>("format"); format != 1)
    throw io::error(file, "format", "is " + std::to_string(format) + "; this version reads 1");
  auto const* run = state.find("run");
  if (run == nullptr)
    throw io::error(file, "run", "is missing");
  return *run;
}

/// Reads the parameters of a checkpoint into a parameter_store or frozen_parameters, for use, or for another phase of
/// training. All of them, which must be all that the checkpoint has; or those whose names begin with `prefix`, such as
/// "image.". Whichever of f32 and bf16 either side has. Tables of relative positions (CoAtNet's) are resized where the
/// model is for images of another size.
template <class C, class Store>
void load_parameters(std::string const& path, C& c, parameter_list const& list, Store& store,
                     std::string_view prefix = {}) {
  auto const file_path = io::committed_folder(path) + "/model.safetensors";
  io::safetensors_file const file{file_path};
  std::size_t wanted = 0;
  auto const each = [&](auto const& f) {
    detail::for_each_tensor(list, store, [&](std::string const& name, auto const& shape, auto values) {
      if (name.starts_with(prefix))
        f(name, shape, values);
    });
  };
  each([&](std::string const& name, std::vector<extent_t> const& shape, auto) {
    auto const& saved = file.at(name);
    if (!detail::is_table_of_another_grid(name, shape, saved.shape))
      file.expect(name, saved.type, shape);
    ++wanted;
  });
  if (wanted == 0 || (prefix.empty() && file.tensors().size() != wanted))
    throw io::error(file_path, prefix,
                    "the file holds " + std::to_string(file.tensors().size()) + " tensors, the model " +
                        std::to_string(wanted));
  each([&]<class V>(std::string const& name, std::vector<extent_t> const& shape, view<V, 1> values) {
    write_from_host(c, values, [&](view<V, 1> v) {
      if (file.at(name).shape == shape)
        detail::read_converted(file, name, v);
      else
        detail::read_resized(file, name, shape, v);
    });
  });
  store.refresh(c);
}

/// Brings a trainer of the same model to where the checkpoint's was: the steps that follow are bitwise those that would
/// have followed. `more` as for save_checkpoint; who owns those parameters refreshes their compute copy. Throws
/// io::error, naming file, tensor and rule, before the trainer's counters change.
template <class Trainer, class More = nothing_more>
void load_checkpoint(std::string const& path, Trainer& trainer, More const& more = {}) {
  auto const folder = io::committed_folder(path);
  auto const file = folder + "/state.json";
  read_run(path);  // the format
  auto const json = io::read_json(file);
  io::json_fields fields{json, file};
  std::string const optimizer = trainer.optimizer().name();
  if (auto const saved = fields.template optional<std::string>("optimizer", optimizer); saved != optimizer)
    throw io::error(file, "optimizer", "is " + saved + "; the run that would go on has " + optimizer);
  auto counters = fields.object("trainer");
  trainer_state state;
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  state.step = counters.template in_range<std::int64_t>("step", 0, most);
  state.updates = counters.template in_range<std::int64_t>("updates", 0, most);
  state.skipped = counters.template in_range<std::int64_t>("skipped", 0, most);
  state.skipped_in_a_row = counters.template in_range<std::int64_t>("skipped_in_a_row", 0, most);

  auto& c = trainer.context();
  detail::read_tensors(c, folder + "/model.safetensors", detail::parameters_of(trainer, more));
  detail::read_tensors(c, folder + "/optimizer.safetensors", detail::moments_of(trainer));
  trainer.resume(state);
}

}  // namespace yoke::train
