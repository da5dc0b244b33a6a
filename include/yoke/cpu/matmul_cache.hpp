// oneDNN's matrix products, kept: a primitive with its memory objects for each shape, so that a
// product in steady state is a look-up and a call.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/random.hpp>
#include <yoke/cpu/memory.hpp>
#include <yoke/cpu/parallel.hpp>

#include <oneapi/dnnl/dnnl.hpp>

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
  int threads = 1;

  friend bool operator==(product const&, product const&) = default;
};

struct product_hash {
  std::size_t operator()(product const& p) const noexcept {
    std::uint64_t h = 0;
    for (auto v : {p.m, p.n, p.k, p.a_strides[0], p.a_strides[1], p.b_strides[0], p.b_strides[1], p.d_stride,
                   static_cast<extent_t>(p.in), static_cast<extent_t>(p.out),
                   extent_t{p.accumulate} + 2 * extent_t{p.bias}, extent_t{p.threads}})
      h = mix(h, static_cast<std::uint64_t>(v));
    return h;
  }
};

/// The products of one context, or of one thread inside a parallel region.
class matmul_cache {
 public:
  /// False, and nothing done, when oneDNN has no kernel for these types on this processor.
  bool run(product const& p, void const* a, void const* b, void const* bias, void* d) {
    if (!engine_)
      engine_ = std::make_unique<engine>();
    auto found = entries_.find(p);
    if (found == entries_.end()) {
      if (entries_.size() == most_entries)  // lengths that change with every batch
        entries_.clear();
      found = entries_.emplace(p, entry{engine_->device, p}).first;
    }
    return found->second.run(*engine_, scratch_, a, b, bias, d);
  }

 private:
  struct engine {
    dnnl::engine device{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{device};
  };

  class entry {
   public:
    entry(dnnl::engine const& device, product const& p) {
      using dnnl::memory;
      auto const description = [](extent_t rows, extent_t columns, memory::data_type type,
                                  std::array<extent_t, 2> strides) {
        return memory::desc({rows, columns}, type, memory::dims{strides[0], strides[1]});
      };
      auto const a = description(p.m, p.k, p.in, p.a_strides), b = description(p.k, p.n, p.in, p.b_strides),
                 d = description(p.m, p.n, p.out, {p.d_stride, 1});
      auto const bias = p.bias ? description(1, p.n, memory::data_type::f32, {p.n, 1}) : memory::desc{};
      dnnl::primitive_attr attributes;
      // The default scratchpad belongs to the thread that made the primitive: another may not run it.
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      if (p.accumulate) {
        dnnl::post_ops sum;
        sum.append_sum();
        attributes.set_post_ops(sum);
      }
      auto const plan = dnnl::matmul::primitive_desc(device, a, b, bias, d, attributes, true);
      if (!plan)
        return;
      primitive_ = dnnl::matmul(plan);
      scratch_bytes_ = plan.scratchpad_desc().get_size();
      add(device, DNNL_ARG_SRC, a);
      add(device, DNNL_ARG_WEIGHTS, b);
      add(device, DNNL_ARG_DST, d);
      add(device, DNNL_ARG_SCRATCHPAD, plan.scratchpad_desc());
      if (p.bias)
        add(device, DNNL_ARG_BIAS, bias);
    }

    bool run(engine const& on, pages& scratch, void const* a, void const* b, void const* bias, void* d) {
      if (!primitive_)
        return false;
      if (scratch.size() < scratch_bytes_)
        scratch = pages{scratch_bytes_};
      void* const handles[] = {const_cast<void*>(a), const_cast<void*>(b), d, scratch.data(),
                               const_cast<void*>(bias)};
      for (std::size_t i = 0; i < count_; ++i) memories_[i].set_data_handle(handles[i]);
      // The C call: the C++ one builds its list of arguments anew each time.
      dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), on.stream.get(),
                                                     static_cast<int>(count_), arguments_.data()),
                              "could not run a matrix product");
      return true;
    }

   private:
    void add(dnnl::engine const& device, int argument, dnnl::memory::desc const& d) {
      memories_[count_] = dnnl::memory(d, device, nullptr);
      arguments_[count_] = {argument, memories_[count_].get()};
      ++count_;
    }

    dnnl::primitive primitive_;
    std::array<dnnl::memory, 5> memories_;
    std::array<dnnl_exec_arg_t, 5> arguments_{};
    std::size_t count_ = 0, scratch_bytes_ = 0;
  };

  static constexpr std::size_t most_entries = 1024;

  std::unique_ptr<engine> engine_;  // made when first wanted: a context of doubles never does
  std::unordered_map<product, entry, product_hash> entries_;
  pages scratch_;
};

}  // namespace yoke::cpu::detail
