// The emulator's captures of streams: what they record, what spoils them, and graphs that replay it.
#include "cuda/emulator/trial.hpp"
#include <memory>

using namespace trial;

namespace {

struct destroy {
  void operator()(cudaGraph_t g) const { cudaGraphDestroy(g); }
  void operator()(cudaGraphExec_t g) const { cudaGraphExecDestroy(g); }
};
using graph = std::unique_ptr<CUgraph_st, destroy>;
using ready_graph = std::unique_ptr<CUgraphExec_st, destroy>;
ready_graph instance_of(graph const& g) {
  cudaGraphExec_t made = nullptr;
  check(cudaGraphInstantiate(&made, g.get(), 0));
  return ready_graph{made};
}

cudaStreamCaptureStatus state_of(cudaStream_t s) {
  cudaStreamCaptureStatus now{};
  check(cudaStreamIsCapturing(s, &now));
  return now;
}
/// What the capture of f's work on s becomes; null when it failed, with the error.
template <class F>
std::pair<graph, cudaError_t> captured(cudaStream_t s, F const& f,
                                       cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed) {
  check(cudaStreamBeginCapture(s, mode));
  f();
  cudaGraph_t made = nullptr;
  auto const e = cudaStreamEndCapture(s, &made);
  cudaGetLastError();
  CHECK((made == nullptr) == (e != cudaSuccess));
  CHECK(state_of(s) == cudaStreamCaptureStatusNone);
  return {graph{made}, e};
}

}  // namespace

TEST_CASE("emulator: a captured piece of work does nothing until its graph is launched, as often as it is") {
  stream const s, side;
  array<int> const x{s, std::vector<int>{0}};
  s.wait();
  event const fork, join;
  auto [made, e] = captured(s, [&] {
    CHECK(state_of(s) == cudaStreamCaptureStatusActive);
    add(s, x, 1);
    check(cudaEventRecord(fork, s));
    check(cudaStreamWaitEvent(side, fork));
    CHECK(state_of(side) == cudaStreamCaptureStatusActive);
    add(side, x, 2);
    check(cudaEventRecord(join, side));
    check(cudaStreamWaitEvent(s, join));
    add(s, x, 3);
  });
  check(e);
  refused(cudaEventQuery(join), cudaErrorCapturedEvent);
  CHECK(x.read()[0] == 0);
  auto ready = instance_of(made);
  made.reset();
  check(cudaGraphLaunch(ready.get(), s));
  add(s, x, 0);
  check(cudaGraphLaunch(ready.get(), s));
  ready.reset();  // what has been launched is still done
  CHECK(x.read()[0] == 1230123);
}

TEST_CASE("emulator: a graph takes over another's arguments when both have the same nodes") {
  stream const s;
  array<int> const x{s, std::vector<int>{0}};
  s.wait();
  auto const record = [&](int n, int kernels, bool fill) {
    auto [made, e] = captured(s, [&] {
      for (int i = 0; i < kernels; ++i) add(s, x, n);
      if (fill)
        check(cudaMemsetAsync(x.data(), 0, sizeof(int), s));
    });
    check(e);
    return std::move(made);
  };
  auto const ready = instance_of(record(1, 2, false));
  cudaGraphExecUpdateResultInfo info{};
  check(cudaGraphExecUpdate(ready.get(), record(7, 2, false).get(), &info));
  CHECK(info.result == cudaGraphExecUpdateSuccess);
  refused(cudaGraphExecUpdate(ready.get(), record(8, 3, false).get(), &info),
          cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  refused(cudaGraphExecUpdate(ready.get(), record(8, 1, true).get(), &info), cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorNodeTypeChanged);
  check(cudaGraphLaunch(ready.get(), s));
  CHECK(x.read()[0] == 77);
}

TEST_CASE("emulator: what a capture cannot record spoils it") {
  stream const s, other;
  array<int> const x{s, std::vector<int>{0}};
  pinned const fixed{0};
  s.wait();
  event const outside;
  check(cudaEventRecord(outside, other));
  auto const spoils = [&](auto const& call, cudaError_t wanted) {
    auto [made, e] = captured(s, [&] {
      add(s, x, 1);
      refused(call(), wanted);
      CHECK(state_of(s) == cudaStreamCaptureStatusInvalidated);
      auto const c = shape(s, 1, 1);
      refused(cudaLaunchKernelEx(&c, add_kernel, x.data(), 2), cudaErrorStreamCaptureInvalidated);
    });
    CHECK(e == cudaErrorStreamCaptureInvalidated);
  };
  int word = 0;
  void* p = nullptr;
  auto const unsupported = cudaErrorStreamCaptureUnsupported;
  spoils([&] { return cudaStreamSynchronize(s); }, unsupported);
  spoils([&] { return cudaStreamQuery(s); }, unsupported);
  spoils([&] { return cudaDeviceSynchronize(); }, unsupported);
  spoils([&] { return cudaMallocAsync(&p, 4, s); }, unsupported);
  spoils([&] { return cudaFreeAsync(x.data(), s); }, unsupported);
  spoils([&] { return cudaMemcpyAsync(&word, x.data(), 4, cudaMemcpyDeviceToHost, s); }, unsupported);
  spoils([&] { return cudaMemcpyAsync(x.data(), &word, 4, cudaMemcpyHostToDevice, s); }, unsupported);
  spoils([&] { return cudaStreamWaitEvent(s, outside); }, cudaErrorStreamCaptureIsolation);
  CHECK(x.read()[0] == 0);

  // A relaxed capture lets other streams be waited for, and memory be taken.
  auto [made, e] = captured(s, [&] {
    check(cudaStreamSynchronize(other));
    check(cudaMallocAsync(&p, 4, other));
    check(cudaFreeAsync(p, other));
    check(cudaMalloc(&p, 4));
    check(cudaMemcpyAsync(fixed.data(), x.data(), 4, cudaMemcpyDeviceToHost, s));
  });
  check(e);
  check(cudaFree(p));
  auto const global = captured(
      s, [&] { refused(cudaMalloc(&p, 4), cudaErrorStreamCaptureUnsupported); }, cudaStreamCaptureModeGlobal);
  CHECK(global.second == cudaErrorStreamCaptureInvalidated);
}

TEST_CASE("emulator: a capture that leaves a stream's work behind is refused") {
  stream const s, side;
  array<int> const x{s, std::vector<int>{0}};
  s.wait();
  event const fork, join;
  auto [made, e] = captured(s, [&] {
    check(cudaEventRecord(fork, s));
    check(cudaStreamWaitEvent(side, fork));
    add(side, x, 1);
    check(cudaEventRecord(join, side));
    add(side, x, 2);
    check(cudaStreamWaitEvent(s, join));
  });
  CHECK(e == cudaErrorStreamCaptureUnjoined);
  CHECK(state_of(side) == cudaStreamCaptureStatusNone);
}

TEST_CASE("emulator: each replay of an operation that says not yet starts afresh") {
  stream const s;
  int calls = 0;
  auto [made, e] = captured(s, [&] {
    check(emulator::enqueue(s, [&calls, left = 3]() mutable {
      ++calls;
      return --left == 0;
    }));
  });
  check(e);
  auto const ready = instance_of(made);
  check(cudaGraphLaunch(ready.get(), s));
  check(cudaGraphLaunch(ready.get(), s));
  s.wait();
  CHECK(calls == 6);
}
