// What yoke-train runs on: a card.
#pragma once
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/prefetch.cuh>

#ifdef TRAIN_WITH_NCCL
#include <yoke/cuda/nccl.cuh>
#endif

#include "train.hpp"

namespace train_tool {

class on_cuda {
 public:
  template <element T>
  using context = cuda::context<T>;

  on_cuda(launched_ranks& launched, cuda::context_options const& options)
      : launched_{&launched}, options_{options} {
    cuda::detail::select(options.device);
  }

  launched_ranks& launched() const { return *launched_; }
  /// All ranks, for tensors of a context: over NCCL, which meets where the processes did.
  template <class Context>
  class ranks {
#ifdef TRAIN_WITH_NCCL
    std::optional<cuda::nccl> cards_;
#endif

   public:
    parallel::any any;

    ranks(on_cuda const& platform, Context& c) : any{ranks_of(platform.launched(), c)} {}

   private:
    parallel::any ranks_of(launched_ranks& launched, [[maybe_unused]] Context& c) {
      if (launched.size() == 1)
        return launched.on_host();
#ifdef TRAIN_WITH_NCCL
      if (auto* const meeting = launched.meeting(); meeting != nullptr)
        return parallel::any{cards_.emplace(c, *meeting, cuda::nccl_options{.timeout = launched.timeout()})};
      throw parallel::error(
          "--device cuda: ranks with cards meet by torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, "
          "MASTER_ADDR, "
          "MASTER_PORT)");
#else
      throw parallel::error(
          "--device cuda: this program was built without NCCL, over which ranks with cards talk");
#endif
    }
  };

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
  launched_ranks* launched_;
  cuda::context_options options_;
};

}  // namespace train_tool
