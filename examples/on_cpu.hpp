// What yoke-train runs on: this machine's processor.
#pragma once
#include <yoke/cpu/context.hpp>

#include "train.hpp"
#include <unistd.h>

namespace train_tool {

class on_cpu {
 public:
  template <element T>
  using context = cpu::context<T>;

  explicit on_cpu(launched_ranks& launched) : launched_{&launched} {}

  launched_ranks& launched() const { return *launched_; }
  /// All ranks, for tensors of a context.
  template <class Context>
  struct ranks {
    parallel::any any;
    ranks(on_cpu const& platform, Context&) : any{platform.launched().on_host()} {}
  };

  template <element T>
  context<T> make(std::size_t activations, std::size_t gradients) const {
    return context<T>{activations, gradients};
  }
  std::string name() const { return "cpu"; }
  /// Bytes that a run may plan with: half of the machine's, shared out among the ranks, which may all be on it.
  std::size_t memory() const {
    return static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
           static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) / 2 /
           static_cast<std::size_t>(launched_->size());
  }

  /// A loader's batches as the trainer takes them.
  template <class Loader>
  class batches {
   public:
    explicit batches(Loader& from) : from_{&from} {}
    bool next() { return from_->next(batch_); }
    contrastive::pixel_batch images() const { return {.pixels = batch_.images()}; }
    contrastive::caption_batch captions() const { return tools::captions_of(batch_); }
    view<std::int32_t const, 1> labels() const { return batch_.label_ids(); }
    data::position after() const { return batch_.after; }

   private:
    Loader* from_;
    data::batch batch_{};
  };
  template <class Context, class Loader>
  batches<Loader> feed(Context&, Loader& from) const {
    return batches<Loader>{from};
  }

 private:
  launched_ranks* launched_;
};

}  // namespace train_tool
