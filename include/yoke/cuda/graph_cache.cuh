// The graphs that a context has built, by name.
#pragma once
#include <yoke/cuda/error.cuh>

#include <string_view>
#include <utility>
#include <vector>

namespace yoke::cuda::detail {

/// The graphs of a context, by the names of the pieces of work. Each time a piece comes it is recorded anew, because
/// random keys, rates and lengths of captions differ from step to step, and the graph that is there takes over the new
/// arguments; only when its form has changed is it built again.
class graphs {
 public:
  graphs() = default;
  graphs(graphs const&) = delete;
  graphs& operator=(graphs const&) = delete;
  ~graphs() {
    for (auto const& g : known_) cudaGraphExecDestroy(g.ready);
  }

  /// True from the second time on: the first call of a kernel loads it, chooses algorithms and takes memory.
  bool warm(std::string_view name) {
    if (find(name) != nullptr)
      return true;
    known_.push_back({name, nullptr});
    return false;
  }
  void launch(std::string_view name, cudaGraph_t recorded, cudaStream_t stream) {
    auto& ready = find(name)->ready;
    cudaGraphExecUpdateResultInfo result{};
    if (ready != nullptr && cudaGraphExecUpdate(ready, recorded, &result) != cudaSuccess) {
      cudaGetLastError();
      check(cudaGraphExecDestroy(std::exchange(ready, nullptr)), "cudaGraphExecDestroy");
    }
    if (ready == nullptr)
      check(cudaGraphInstantiate(&ready, recorded, 0), "cudaGraphInstantiate");
    check(cudaGraphLaunch(ready, stream), "cudaGraphLaunch");
  }

 private:
  struct graph {
    std::string_view name;
    cudaGraphExec_t ready;
  };
  graph* find(std::string_view name) {
    for (auto& g : known_)
      if (g.name == name)
        return &g;
    return nullptr;
  }
  std::vector<graph> known_;
};

}  // namespace yoke::cuda::detail
