// The runtime's functions on captures of streams and the
// graphs that come of them.
#pragma once
#include "api_streams.hpp"
#include <optional>

struct CUgraph_st {
  std::shared_ptr<std::vector<emulator::operation> const> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<std::vector<emulator::operation> const> nodes;
};
struct CUgraphNode_st;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
using cudaGraphNode_t = CUgraphNode_st*;

enum cudaGraphExecUpdateResult {
  cudaGraphExecUpdateSuccess = 0,
  cudaGraphExecUpdateError = 1,
  cudaGraphExecUpdateErrorTopologyChanged = 2,
  cudaGraphExecUpdateErrorNodeTypeChanged = 3
};
struct cudaGraphExecUpdateResultInfo {
  cudaGraphExecUpdateResult result;
  cudaGraphNode_t errorNode;
  cudaGraphNode_t errorFromNode;
};

namespace emulator {

/// The nodes of a graph one after the other; as an operation of a stream it may stop at a node that says "not yet".
class replay {
 public:
  explicit replay(std::shared_ptr<std::vector<operation> const> nodes) : nodes_{std::move(nodes)} {}
  bool operator()() {
    for (; at_ < nodes_->size(); ++at_) {
      if (!now_)
        now_ = (*nodes_)[at_].run;
      if (!now_())
        return false;
      now_ = nullptr;
    }
    return true;
  }

 private:
  std::shared_ptr<std::vector<operation> const> nodes_;
  std::size_t at_ = 0;
  step now_;
};

}  // namespace emulator

inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  using namespace emulator;
  guard const held{cards().lock};
  auto const q = queue_of(s);
  if (s == nullptr)
    return result(cudaErrorStreamCaptureUnsupported);
  if (q->capture != nullptr)
    return result(invalidate(*q, cudaErrorIllegalState));
  q->capture = std::make_shared<recording>();
  q->capture->origin = q.get();
  q->capture->members = {q};
  q->capture->mode = mode;
  q->capture->owner = std::this_thread::get_id();
  q->recorded = 0;
  q->before.clear();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  using namespace emulator;
  guard const held{cards().lock};
  *graph = nullptr;
  auto const q = queue_of(s);
  auto const c = q->capture;
  if (c == nullptr)
    return result(cudaErrorIllegalState);
  if (c->origin != q.get())
    return result(invalidate(*q, cudaErrorStreamCaptureUnmatched));
  if (c->mode != cudaStreamCaptureModeRelaxed && c->owner != std::this_thread::get_id())
    return result(cudaErrorStreamCaptureWrongThread);
  bool const joined = std::all_of(c->members.begin(), c->members.end(), [&](auto const& member) {
    return member == q || q->before[member.get()] >= member->recorded;
  });
  for (auto const& member : c->members) member->capture = nullptr;
  c->members.clear();
  if (c->invalid)
    return result(cudaErrorStreamCaptureInvalidated);
  if (!joined)
    return result(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::make_shared<std::vector<operation> const>(std::move(c->nodes))};
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  using namespace emulator;
  guard const held{cards().lock};
  auto const q = queue_of(s);
  *status = q->capture == nullptr ? cudaStreamCaptureStatusNone
            : q->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long = 0) {
  if (ready == nullptr || graph == nullptr)
    return emulator::result(cudaErrorInvalidValue);
  *ready = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
/// The new arguments take the place of the old where the graphs have the same number and kinds of nodes.
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t ready, cudaGraph_t graph,
                                       cudaGraphExecUpdateResultInfo* info) {
  using namespace emulator;
  if (ready == nullptr || graph == nullptr || info == nullptr)
    return result(cudaErrorInvalidValue);
  auto const &old = *ready->nodes, &now = *graph->nodes;
  *info = {cudaGraphExecUpdateSuccess, nullptr, nullptr};
  if (old.size() != now.size())
    info->result = cudaGraphExecUpdateErrorTopologyChanged;
  else if (!std::equal(old.begin(), old.end(), now.begin(),
                       [](auto& a, auto& b) { return a.what == b.what; }))
    info->result = cudaGraphExecUpdateErrorNodeTypeChanged;
  if (info->result != cudaGraphExecUpdateSuccess)
    return result(cudaErrorGraphExecUpdateFailure);
  ready->nodes = graph->nodes;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t s) {
  using namespace emulator;
  guard const held{cards().lock};
  if (ready == nullptr)
    return result(cudaErrorInvalidValue);
  return result(enqueue(*queue_of(s), kind::graph, replay{ready->nodes}));
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (graph == nullptr)
    return emulator::result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
  if (ready == nullptr)
    return emulator::result(cudaErrorInvalidValue);
  delete ready;
  return cudaSuccess;
}
