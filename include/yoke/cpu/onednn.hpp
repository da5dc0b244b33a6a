// oneDNN's C objects, owned, and its failures in words. The C interface rather than the C++ one: it compiles in a
// fraction of the time, and by nvcc too.
#pragma once
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace yoke::cpu {

/// oneDNN refused. what() says what it was asked for and its status.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail::onednn {

/// Throws error "oneDNN: what: status" unless `status` is success.
inline void check(dnnl_status_t status, char const* what) {
  if (status != dnnl_success) [[unlikely]]
    throw error(std::string("oneDNN: ") + what + ": " + dnnl_status2str(status));
}

template <auto Destroy>
struct destroyer {
  template <class T>
  void operator()(T* object) const noexcept {
    Destroy(object);
  }
};
template <class Handle, auto Destroy>
using owned = std::unique_ptr<std::remove_pointer_t<Handle>, destroyer<Destroy>>;

using engine = owned<dnnl_engine_t, dnnl_engine_destroy>;
using stream = owned<dnnl_stream_t, dnnl_stream_destroy>;
using layout = owned<dnnl_memory_desc_t, dnnl_memory_desc_destroy>;
using memory = owned<dnnl_memory_t, dnnl_memory_destroy>;
using attributes = owned<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy>;
using post_ops = owned<dnnl_post_ops_t, dnnl_post_ops_destroy>;
using plan = owned<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>;
using primitive = owned<dnnl_primitive_t, dnnl_primitive_destroy>;

/// What create(&handle, arguments…) makes.
template <class Owned, class... P>
Owned make(char const* what, dnnl_status_t (*create)(typename Owned::pointer*, P...),
           std::type_identity_t<P>... arguments) {
  typename Owned::pointer made = nullptr;
  check(create(&made, arguments...), what);
  return Owned{made};
}

/// Memory that has its address when it is used.
inline memory make_memory(const_dnnl_memory_desc_t described, dnnl_engine_t on) {
  return make<memory>("memory", dnnl_memory_create, described, on, nullptr);
}

}  // namespace detail::onednn

}  // namespace yoke::cpu
