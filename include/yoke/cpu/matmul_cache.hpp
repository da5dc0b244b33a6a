// oneDNN's matrix products, kept: a primitive with its memory objects for each shape, so that a
// product in steady state is a look-up and a call.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/random.hpp>
#include <yoke/cpu/memory.hpp>
#include <yoke/cpu/onednn.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <unordered_map>

namespace yoke::cpu::detail {

template <class T>
inline constexpr dnnl_data_type_t number_type = std::is_same_v<T, bf16> ? dnnl_bf16 : dnnl_f32;

/// Everything that a primitive is compiled for: d (m, n) = or += a (m, k) b (k, n) + bias (n).
/// Strides are of rows and of columns, in elements; one of the two is 1.
struct product {
  extent_t m = 0, n = 0, k = 0;
  std::array<extent_t, 2> a_strides{}, b_strides{};
  extent_t d_stride = 0;
  dnnl_data_type_t in{}, out{};
  bool accumulate = false, bias = false;
  bool sums_rows = false;  // k, not m, is the number of rows of the batch: a weight's gradient
  int threads = 1;

  extent_t& rows() { return sums_rows ? k : m; }
  friend bool operator==(product const&, product const&) = default;
};

struct product_hash {
  std::size_t operator()(product const& p) const noexcept {
    std::uint64_t h = 0;
    for (auto v :
         {p.m, p.n, p.k, p.a_strides[0], p.a_strides[1], p.b_strides[0], p.b_strides[1], p.d_stride,
          static_cast<extent_t>(p.in), static_cast<extent_t>(p.out),
          extent_t{p.accumulate} + 2 * extent_t{p.bias} + 4 * extent_t{p.sums_rows}, extent_t{p.threads}})
      h = mix(h, static_cast<std::uint64_t>(v));
    return h;
  }
};

/// The products of one context, or of one thread inside a parallel region.
class matmul_cache {
 public:
  /// Keeps at most so many primitives: what oneDNN itself keeps, so that those forgotten here are
  /// quickly made again.
  explicit matmul_cache(std::size_t most = 1024) : most_{most} {}

  /// False, and nothing done, when oneDNN has no kernel for bf16 on this processor. Throws error when it has none for
  /// floats.
  bool run(product const& p, void const* a, void const* b, void const* bias, void* d) {
    if (!engine_)
      engine_ = std::make_unique<engine>();
    handles const data{const_cast<void*>(a), const_cast<void*>(b), d, const_cast<void*>(bias)};
    if (auto any = p; any.rows() % usual_rows != 0 && p.m * p.n * p.k < large_product) {
      any.rows() = DNNL_RUNTIME_DIM_VAL;
      if (find(any).run(*engine_, scratch_, p, data))
        return true;
    }
    if (find(p).run(*engine_, scratch_, p, data))
      return true;
    if (p.in == dnnl_f32)
      throw error("oneDNN: no kernel for a product of floats");
    return false;
  }

 private:
  using handles = std::array<void*, 4>;  // a, b, d, bias

  struct engine {
    onednn::engine device = onednn::make<onednn::engine>("the processor", dnnl_engine_create, dnnl_cpu, 0);
    onednn::stream stream =
        onednn::make<onednn::stream>("a stream", dnnl_stream_create, device.get(), dnnl_stream_default_flags);
  };

  /// A primitive and the memory objects of its arguments.
  class entry {
   public:
    entry(engine const& on, product const& p) : count_{p.bias ? 4u : 3u} {
      auto const attributes = describe_how(p);
      auto const d = describe(p);
      dnnl_primitive_desc_t made = nullptr;
      auto const status = dnnl_matmul_primitive_desc_create(&made, on.device.get(), d[0].get(), d[1].get(),
                                                            d[3].get(), d[2].get(), attributes.get());
      if (status == dnnl_unimplemented)
        return;
      onednn::check(status, "a matrix product");
      onednn::plan const plan{made};
      primitive_ = onednn::make<onednn::primitive>("a matrix product", dnnl_primitive_create, plan.get());
      auto const scratch = dnnl_primitive_desc_query_md(plan.get(), dnnl_query_scratchpad_md, 0);
      scratch_bytes_ = dnnl_memory_desc_get_size(scratch);
      scratchpad_ = onednn::make_memory(scratch, on.device.get());
    }

    /// `p` is what the primitive was made for, or, where that is for any number of rows, has one.
    bool run(engine const& on, pages& scratch, product p, handles const& data) {
      if (!primitive_)
        return false;
      if (scratch.size() < scratch_bytes_)
        scratch = pages{scratch_bytes_};
      auto const& given = memories_of(on, p);
      constexpr std::array names{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
      dnnl_exec_arg_t arguments[5];
      for (std::size_t i = 0; i < count_; ++i) arguments[i] = bind(names[i], given[i], data[i]);
      arguments[count_] = bind(DNNL_ARG_SCRATCHPAD, scratchpad_, scratch.data());
      onednn::check(
          dnnl_primitive_execute(primitive_.get(), on.stream.get(), static_cast<int>(count_ + 1), arguments),
          "running a matrix product");
      return true;
    }

   private:
    using layouts = std::array<onednn::layout, 4>;   // a, b, d, bias: null where there is none
    using memories = std::array<onednn::memory, 4>;  // the same

    static onednn::attributes describe_how(product const& p) {
      auto made = onednn::make<onednn::attributes>("attributes", dnnl_primitive_attr_create);
      // The default scratchpad belongs to the thread that made the primitive: another may not run it.
      onednn::check(dnnl_primitive_attr_set_scratchpad_mode(made.get(), dnnl_scratchpad_mode_user),
                    "the scratchpad's mode");
      if (p.accumulate) {
        auto const sum = onednn::make<onednn::post_ops>("post-operations", dnnl_post_ops_create);
        onednn::check(dnnl_post_ops_append_sum(sum.get(), 1, 0, dnnl_data_type_undef), "a sum");
        onednn::check(dnnl_primitive_attr_set_post_ops(made.get(), sum.get()), "a sum");
      }
      return made;
    }
    static layouts describe(product const& p) {
      auto const matrix = [](extent_t rows, extent_t columns, dnnl_data_type_t type,
                             std::array<extent_t, 2> strides) {
        extent_t const extents[]{rows, columns};
        return onednn::make<onednn::layout>("a matrix", dnnl_memory_desc_create_with_strides, 2, extents,
                                            type, strides.data());
      };
      return {matrix(p.m, p.k, p.in, p.a_strides), matrix(p.k, p.n, p.in, p.b_strides),
              matrix(p.m, p.n, p.out, {p.d_stride, 1}),
              p.bias ? matrix(1, p.n, dnnl_f32, {p.n, 1}) : onednn::layout{}};
    }
    /// The memory objects of one number of rows: kept, so that numbers that come again allocate nothing.
    memories const& memories_of(engine const& on, product& p) {
      auto const rows = p.rows();
      if (auto const found = kept_.find(rows); found != kept_.end())
        return found->second;
      if (kept_.size() == 256)
        kept_.clear();
      auto& made = kept_[rows];
      auto const d = describe(p);
      for (std::size_t i = 0; i < count_; ++i) made[i] = onednn::make_memory(d[i].get(), on.device.get());
      return made;
    }
    static dnnl_exec_arg_t bind(int name, onednn::memory const& memory, void* data) {
      onednn::check(dnnl_memory_set_data_handle(memory.get(), data), "an argument's address");
      return {name, memory.get()};
    }

    onednn::primitive primitive_;
    onednn::memory scratchpad_;
    std::unordered_map<extent_t, memories> kept_;
    std::size_t count_, scratch_bytes_ = 0;
  };

  entry& find(product const& p) {
    auto found = entries_.find(p);
    if (found == entries_.end()) {
      if (entries_.size() == most_)
        entries_.clear();
      found = entries_.emplace(p, entry{*engine_, p}).first;
    }
    return found->second;
  }

  // Captions of all lengths make another number of rows with every batch, and a primitive takes as
  // long as a million multiply-adds and more to make. One for any number of rows is at most a fifth
  // slower where it matters. Which of the two it is follows from the shape alone, because their last
  // bits differ: a run that was resumed must choose as one that was not.
  static constexpr extent_t usual_rows = 32, large_product = extent_t{1} << 30;

  std::size_t most_;
  std::unique_ptr<engine> engine_;  // made when first wanted: a context of doubles never does
  std::unordered_map<product, entry, product_hash> entries_;
  pages scratch_;
};

}  // namespace yoke::cpu::detail
