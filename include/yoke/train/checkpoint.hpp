// A training run on disk: one folder that is complete or not there, and from which training goes on bitwise.
#pragma once
#include <yoke/io/folder.hpp>
#include <yoke/io/json.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/io/safetensors_writer.hpp>
#include <yoke/train/trainer.hpp>
#include <yoke/version.hpp>

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace yoke::train {

/// Files of the caller that go into a checkpoint beside its own: name and content.
using checkpoint_files = std::vector<std::pair<std::string, std::string>>;

namespace detail {

/// Flat blocks, each with a prefix of its tensors' names.
template <class A>
using named_blocks = std::vector<std::pair<std::string, view<A, 1>>>;

template <class Trainer>
auto moments_of(Trainer const& trainer) {
  named_blocks<typename Trainer::A> moments;
  for (auto const& [name, block] : trainer.optimizer().state()) moments.push_back({name + "/", block});
  return moments;
}

/// Writes flat blocks as one tensor a parameter; names are `prefix` + the parameter's.
template <class C, class A>
void write_blocks(C& c, std::string const& path, parameter_list const& list, named_blocks<A> const& blocks) {
  std::vector<io::tensor_declaration> tensors;
  for (auto const& [prefix, block] : blocks)
    for (auto const& p : list.infos()) tensors.push_back({prefix + p.name, io::dtype_of<A>(), p.shape});
  io::safetensors_writer file{path, tensors};
  for (auto const& [prefix, block] : blocks)
    for (auto const& p : list.infos())
      read_on_host(c, view<A const, 1>{slice(block, p.offset, p.size())}, [&](view<A const, 1> v) {
        file.append(prefix + p.name, std::span<A const>{v.data, static_cast<std::size_t>(v.size())});
      });
  file.finish();
}

/// The inverse. Everything is checked before anything is read.
template <class C, class A>
void read_blocks(C& c, std::string const& path, parameter_list const& list, named_blocks<A> const& blocks) {
  io::safetensors_file const file{path};
  for (auto const& [prefix, block] : blocks)
    for (auto const& p : list.infos()) file.expect(prefix + p.name, io::dtype_of<A>(), p.shape);
  auto const wanted = blocks.size() * list.infos().size();
  if (file.tensors().size() != wanted)
    throw io::error(path, "",
                    "the file holds " + std::to_string(file.tensors().size()) + " tensors, the model " +
                        std::to_string(wanted));
  for (auto const& [prefix, block] : blocks)
    for (auto const& p : list.infos())
      write_from_host(c, slice(block, p.offset, p.size()), [&](view<A, 1> v) {
        file.read(prefix + p.name, std::span<A>{v.data, static_cast<std::size_t>(v.size())});
      });
}

}  // namespace detail

/// Writes the trainer, what `run` says of the caller's own state (data position, configuration), and the caller's
/// files to the folder `path`, replacing the checkpoint there in one step. Until then, and whatever fails (io::error),
/// the old one stays. One rank writes.
template <class Trainer>
void save_checkpoint(std::string const& path, Trainer& trainer, io::json run,
                     checkpoint_files const& files = {}) {
  using A = typename Trainer::A;
  io::folder_writer folder{path, "state.json"};
  auto& c = trainer.context();
  detail::write_blocks(c, folder.file("model.safetensors"), trainer.list(),
                       detail::named_blocks<A>{{"", trainer.store().master()}});
  detail::write_blocks(c, folder.file("optimizer.safetensors"), trainer.list(), detail::moments_of(trainer));
  for (auto const& [name, content] : files) folder.write(name, content);

  auto const& s = trainer.state();
  io::json state;
  state["format"] = 1;
  state["yoke"] = version;
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

/// Reads the parameters of a checkpoint into the store, for use without training.
template <class C>
void load_parameters(std::string const& path, C& c, parameter_list const& list, parameter_store<C>& store) {
  detail::read_blocks(c, io::committed_folder(path) + "/model.safetensors", list,
                      detail::named_blocks<typename C::accumulator>{{"", store.master()}});
  store.refresh(c);
}

/// Brings a trainer of the same model to where the checkpoint's was: the steps that follow are bitwise those that would
/// have followed. Throws io::error, naming file, tensor and rule, before the trainer's counters change.
template <class Trainer>
void load_checkpoint(std::string const& path, Trainer& trainer) {
  using A = typename Trainer::A;
  auto const folder = io::committed_folder(path);
  auto const file = folder + "/state.json";
  read_run(path);  // the format
  auto const json = io::read_json(file);
  io::json_fields fields{json, file};
  auto counters = fields.object("trainer");
  trainer_state state;
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  state.step = counters.template in_range<std::int64_t>("step", 0, most);
  state.updates = counters.template in_range<std::int64_t>("updates", 0, most);
  state.skipped = counters.template in_range<std::int64_t>("skipped", 0, most);
  state.skipped_in_a_row = counters.template in_range<std::int64_t>("skipped_in_a_row", 0, most);

  auto& c = trainer.context();
  detail::read_blocks(c, folder + "/model.safetensors", trainer.list(),
                      detail::named_blocks<A>{{"", trainer.store().master()}});
  detail::read_blocks(c, folder + "/optimizer.safetensors", trainer.list(), detail::moments_of(trainer));
  trainer.resume(state);
}

}  // namespace yoke::train
