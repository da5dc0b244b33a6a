// Tensors on their way between a rank's memory and the parts of a checkpoint.
#pragma once
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/io/json.hpp>
#include <yoke/io/safetensors_writer.hpp>
#include <yoke/nn/relative_table.hpp>
#include <yoke/train/checkpoint_parts.hpp>
#include <yoke/train/together.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace yoke::train::detail {

/// Calls f(place, owner on the data axis, elements) for the learned numbers of a store, then for its running statistics.
/// What this rank does not hold has no elements.
template <class Store, class F>
void for_each_tensor(parameter_list const& list, Store const& store, F const& f) {
  auto const owner = [&]([[maybe_unused]] std::size_t i) {
    if constexpr (requires { store.owners(); })
      return store.owners().owner(i);
    else
      return 0;
  };
  for (std::size_t i = 0; i < list.infos().size(); ++i) {
    tensor_place const& place = list.infos()[i];
    store.master_block().visit(list.infos()[i], [&](auto values) { f(place, owner(i), values); });
  }
  for (auto const& s : list.statistics())
    f(tensor_place{s.name, s.shape}, 0, slice(store.statistics(), s.offset, s.size));
}

template <class V>
std::span<std::byte> bytes_of(view<V, 1> v) {
  return std::as_writable_bytes(std::span{v.data, static_cast<std::size_t>(v.size())});
}

/// Writes this rank's part of the tensors that `each` calls its argument with, and returns its size in bytes. Each piece
/// is in one part: that of its owner on the data axis, and of the first rank of the model axis if all there hold the same.
template <class C, class Each>
std::uint64_t write_part(C& c, std::string const& path, place_in_mesh const& here, std::string const& mark,
                         Each const& each) {
  auto const mine = [&](tensor_place const& t, int owner) {
    return owner == here.data && (t.is_sharded() || here.model == 0);
  };
  std::vector<io::tensor_declaration> tensors;
  io::json cuts = io::json::object();
  each([&]<class V>(tensor_place const& t, int owner, view<V, 1>) {
    if (!mine(t, owner))
      return;
    tensors.push_back({t.name, io::dtype_of<V>(), t.shape});
    if (t.is_sharded())
      cuts[t.name] = std::vector<std::int64_t>{t.cut.axis, t.cut.groups};
  });
  std::map<std::string, std::string> metadata;
  if (here.mesh.ranks() > 1)
    metadata = {{"cuts", cuts.dump()}, {"mark", mark}};
  io::safetensors_writer file{path, tensors, metadata};
  each([&]<class V>(tensor_place const& t, int owner, view<V, 1> values) {
    if (mine(t, owner))
      read_on_host(c, view<V const, 1>{values}, [&](view<V const, 1> v) {
        file.append(t.name, std::span<V const>{v.data, static_cast<std::size_t>(v.size())});
      });
  });
  file.finish();
  return io::input_file{path}.size();
}

/// Throws unless what was saved has every tensor, in its type and shape; returns how many `counts(owner)` is true of.
template <class Each, class Counts>
std::size_t expect_tensors(saved_tensors const& saved, Each const& each, Counts const& counts) {
  std::size_t n = 0;
  each([&]<class V>(tensor_place const& t, int owner, view<V, 1>) {
    saved.expect(t, io::dtype_of<V>());
    n += counts(owner) ? 1 : 0;
  });
  return n;
}

/// Reads what this rank holds.
template <class C, class Each>
void read_tensors(C& c, saved_tensors const& saved, Each const& each) {
  each([&]<class V>(tensor_place const& t, int, view<V, 1> values) {
    if (values.size() > 0)
      write_from_host(c, values, [&](view<V, 1> v) { saved.read(t, bytes_of(v)); });
  });
}

/// Whether a parameter is a table of relative positions for one grid and the saved tensor one for another.
inline bool is_table_of_another_grid(std::string_view name, std::vector<extent_t> const& shape,
                                     std::vector<extent_t> const& saved) {
  return name.ends_with(".table") && shape.size() == 3 && saved.size() == 3 && shape[0] == saved[0] &&
         (shape[1] != saved[1] || shape[2] != saved[2]) && saved[1] % 2 == 1 && saved[2] % 2 == 1;
}

template <class V>
void read_converted(saved_tensors const& saved, tensor_place const& t, view<V, 1> to);

/// Reads a table of relative positions and resizes it.
template <class V>
void read_resized(saved_tensors const& saved, tensor_place const& t, view<V, 1> to) {
  using A = accumulator_t<V>;
  auto const old = saved.at(t.name).shape(), now = t.whole();
  auto const table = [](auto const& s) { return yoke::shape<3>{{s[0], s[1], s[2]}}; };
  std::vector<A> values(static_cast<std::size_t>(table(old).size()));
  read_converted(saved, tensor_place{t.name, old}, view<A, 1>{values.data(), {{table(old).size()}}});
  std::vector<A> resized(static_cast<std::size_t>(table(now).size()));
  nn::resize_relative_table(view<A const, 3>{values.data(), table(old)},
                            view<A, 3>{resized.data(), table(now)});
  t.for_each_run_of_whole([&](extent_t whole, extent_t here, extent_t n) {
    for (extent_t i = 0; i < n; ++i)
      to.data[here + i] = static_cast<V>(resized[static_cast<std::size_t>(whole + i)]);
  });
}

/// Reads what a rank holds of a tensor, be it saved in f32 or bf16 or for another grid, as V's.
template <class V>
void read_converted(saved_tensors const& saved, tensor_place const& t, view<V, 1> to) {
  auto const& found = saved.at(t.name);
  if (found.shape() != t.whole())
    return read_resized(saved, t, to);
  auto const convert_from = [&]<class From>(From) {
    std::vector<From> values(static_cast<std::size_t>(to.size()));
    saved.read(t, std::as_writable_bytes(std::span{values}));
    using A = accumulator_t<V>;
    for (std::size_t i = 0; i < values.size(); ++i) to.data[i] = static_cast<V>(static_cast<A>(values[i]));
  };
  if (found.type == io::dtype_of<V>())
    saved.read(t, bytes_of(to));
  else if (found.type == io::dtype::bf16)
    convert_from(bf16{});
  else if (saved.expect(t, io::dtype::f32); true)  // any other type is refused
    convert_from(float{});
}

}  // namespace yoke::train::detail
