// A model's embeddings of whole data sets: captions given as text, images as batches come from a source.
#pragma once
#include <yoke/contrastive/encode.hpp>
#include <yoke/contrastive/inputs.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace yoke::eval {

/// Rows of unit length, (count, width).
struct embeddings {
  extent_t width = 0;
  std::vector<float> values;

  extent_t count() const { return width == 0 ? 0 : static_cast<extent_t>(values.size()) / width; }
  view<float const, 2> rows() const { return {values.data(), {{count(), width}}}; }
};

namespace detail {

/// Runs one tower on `inputs` and appends its rows.
template <class C, class Tower, class Store, class Inputs>
void append(C& c, Tower const& tower, Store const& store, Inputs const& inputs, extent_t micro_batch,
            embeddings& to) {
  using A = typename C::accumulator;
  arena_scope const scratch{c.memory};
  auto const rows = make<A>(c, shape{inputs.count(), to.width});
  contrastive::encode(c, tower, store, inputs, micro_batch, rows);
  read_on_host(c, view<A const, 1>{as_flat(rows)}, [&](view<A const, 1> v) {
    for (extent_t i = 0; i < v.size(); ++i) to.values.push_back(static_cast<float>(v.data[i]));
  });
}

}  // namespace detail

/// Texts by the model's text tower, `micro_batch` at a time. `store`: a parameter_store or frozen_parameters.
template <class C, class Model, class Store, class Tokenizer>
embeddings embed_texts(C& c, Model const& model, Store const& store, Tokenizer const& tokenizer,
                       std::span<std::string const> texts, extent_t micro_batch) {
  embeddings result{model.embedding, {}};
  std::vector<std::int32_t> ids, offsets;
  for (std::size_t first = 0; first < texts.size(); first += static_cast<std::size_t>(micro_batch)) {
    ids.clear();
    offsets.assign(1, 0);
    for (auto const& text :
         texts.subspan(first, std::min(texts.size() - first, static_cast<std::size_t>(micro_batch)))) {
      tokenizer(text, ids);
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
    auto const runs = segments::packed({offsets.data(), {{static_cast<extent_t>(offsets.size())}}},
                                       tokenizer.context_length());
    contrastive::caption_batch const batch{{runs, {ids.data(), {{runs.rows}}}}};
    detail::append(c, model.text, store, batch, micro_batch, result);
  }
  return result;
}

/// Images (count, height, width, 3) by the model's image tower, appended to `to`, whose width is the model's.
template <class C, class Model, class Store>
void embed_images(C& c, Model const& model, Store const& store, contrastive::pixel_batch const& images,
                  extent_t micro_batch, embeddings& to) {
  expects(to.width == model.embedding, "embed_images: the embeddings have the model's width");
  detail::append(c, model.image, store, images, micro_batch, to);
}

}  // namespace yoke::eval
