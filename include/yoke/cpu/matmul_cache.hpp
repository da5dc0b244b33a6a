// oneDNN's matrix products, kept: a primitive with its memory objects for each shape, so that a
// product in steady state is a look-up and a call.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/random.hpp>
#include <yoke/cpu/memory.hpp>
#include <yoke/cpu/parallel.hpp>

#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <unordered_map>

namespace yoke::cpu::detail {

template <class T>
inline constexpr auto number_type =
    std::is_same_v<T, bf16> ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;

/// Everything that a primitive is compiled for: d (m, n) = or += a (m, k) b (k, n) + bias (n).
/// Strides are of rows and of columns, in elements; one of the two is 1.
struct product {
  extent_t m = 0, n = 0, k = 0;
  std::array<extent_t, 2> a_strides{}, b_strides{};
  extent_t d_stride = 0;
  dnnl::memory::data_type in{}, out{};
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

  /// False, and nothing done, when oneDNN has no kernel for these types on this processor.
  bool run(product const& p, void const* a, void const* b, void const* bias, void* d) {
    if (!engine_)
      engine_ = std::make_unique<engine>();
    handles const data{const_cast<void*>(a), const_cast<void*>(b), d, const_cast<void*>(bias)};
    if (auto any = p; any.rows() % usual_rows != 0 && p.m * p.n * p.k < large_product) {
      any.rows() = DNNL_RUNTIME_DIM_VAL;
      if (find(any).run(*engine_, scratch_, p, data))
        return true;
    }
    return find(p).run(*engine_, scratch_, p, data);
  }

 private:
  using handles = std::array<void*, 4>;  // a, b, d, bias

  struct engine {
    dnnl::engine device{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{device};
  };

  /// A primitive and the memory objects of its arguments.
  class entry {
   public:
    entry(engine const& on, product const& p) : count_{p.bias ? 4u : 3u} {
      dnnl::primitive_attr attributes;
      // The default scratchpad belongs to the thread that made the primitive: another may not run it.
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      if (p.accumulate) {
        dnnl::post_ops sum;
        sum.append_sum();
        attributes.set_post_ops(sum);
      }
      auto const d = describe(p);
      auto const plan = dnnl::matmul::primitive_desc(on.device, d[0], d[1], d[3], d[2], attributes, true);
      if (!plan)
        return;
      primitive_ = dnnl::matmul(plan);
      scratch_bytes_ = plan.scratchpad_desc().get_size();
      scratchpad_ = dnnl::memory(plan.scratchpad_desc(), on.device, nullptr);
    }

    /// `p` is what the primitive was made for, or, where that is for any number of rows, has one.
    bool run(engine const& on, pages& scratch, product p, handles const& data) {
      if (!primitive_)
        return false;
      if (scratch.size() < scratch_bytes_)
        scratch = pages{scratch_bytes_};
      auto& to = arguments_of(on, p);
      for (std::size_t i = 0; i < count_; ++i) to.memories[i].set_data_handle(data[i]);
      scratchpad_.set_data_handle(scratch.data());
      // The C call: the C++ one builds its list of arguments anew each time.
      dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), on.stream.get(),
                                                     static_cast<int>(count_ + 1), to.list.data()),
                              "could not run a matrix product");
      return true;
    }

   private:
    /// a, b, d and bias.
    static std::array<dnnl::memory::desc, 4> describe(product const& p) {
      using dnnl::memory;
      auto const matrix = [](extent_t rows, extent_t columns, memory::data_type type,
                             std::array<extent_t, 2> strides) {
        return memory::desc({rows, columns}, type, memory::dims{strides[0], strides[1]});
      };
      return {matrix(p.m, p.k, p.in, p.a_strides), matrix(p.k, p.n, p.in, p.b_strides),
              matrix(p.m, p.n, p.out, {p.d_stride, 1}),
              p.bias ? matrix(1, p.n, memory::data_type::f32, {p.n, 1}) : memory::desc{}};
    }
    /// Memory objects of one number of rows, and oneDNN's list of them.
    struct arguments {
      std::array<dnnl::memory, 4> memories;
      std::array<dnnl_exec_arg_t, 5> list{};
    };
    /// Kept, so that numbers of rows that come again allocate nothing.
    arguments& arguments_of(engine const& on, product& p) {
      auto const rows = p.rows();
      if (auto const found = kept_.find(rows); found != kept_.end())
        return found->second;
      if (kept_.size() == 256)
        kept_.clear();
      auto& made = kept_[rows];
      constexpr std::array names{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
      auto const d = describe(p);
      for (std::size_t i = 0; i < count_; ++i) {
        made.memories[i] = dnnl::memory(d[i], on.device, nullptr);
        made.list[i] = {names[i], made.memories[i].get()};
      }
      made.list[count_] = {DNNL_ARG_SCRATCHPAD, scratchpad_.get()};
      return made;
    }

    dnnl::primitive primitive_;
    dnnl::memory scratchpad_;
    std::unordered_map<extent_t, arguments> kept_;
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
