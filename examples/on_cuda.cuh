// What yoke-train runs on: a card.
#pragma once
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/prefetch.cuh>

#include "train.hpp"

namespace train_tool {

class on_cuda {
 public:
  template <element T>
  using context = cuda::context<T>;

  explicit on_cuda(cuda::context_options const& options) : options_{options} {
    cuda::detail::select(options.device);
  }

  template <element T>
  context<T> make(std::size_t activations, std::size_t gradients) const {
    return context<T>{activations, gradients, options_};
  }
  std::string name() const {
    cudaDeviceProp card{};
    cuda::check(cudaGetDeviceProperties(&card, options_.device), "cudaGetDeviceProperties");
    return card.name;
  }
  /// Bytes that a run may plan with: what is free, but for a tenth, from which kernels' scratch memory, libraries and the
  /// batches on their way are taken.
  std::size_t memory() const {
    std::size_t left = 0, all = 0;
    cuda::check(cudaMemGetInfo(&left, &all), "cudaMemGetInfo");
    return left - left / 10;
  }

  /// A loader's batches, copied to the card ahead of the step that takes them.
  template <class Loader>
  class batches {
   public:
    batches(cuda::detail::device& c, Loader& from) : from_{c, from} {}
    bool next() { return (now_ = from_.next()) != nullptr; }
    contrastive::pixel_batch images() const {
      return {.pixels = now_->pixels(), .where = contrastive::place::device};
    }
    contrastive::caption_batch captions() const { return {now_->tokens(), contrastive::place::device}; }
    view<std::int32_t const, 1> labels() const {
      return {now_->labels.data(), {{static_cast<extent_t>(now_->labels.size())}}};
    }
    data::position after() const { return now_->after; }

   private:
    cuda::prefetch<Loader> from_;
    typename cuda::prefetch<Loader>::batch const* now_ = nullptr;
  };
  template <class Context, class Loader>
  batches<Loader> feed(Context& c, Loader& from) const {
    return batches<Loader>{c, from};
  }

 private:
  cuda::context_options options_;
};

}  // namespace train_tool
