// The runtime's functions on streams and events.
#pragma once
#include "streams.hpp"

namespace emulator {

inline cudaError_t synchronise(guard& held, std::shared_ptr<queue> const& q) {
  if (auto const e = may_wait(*q); e != cudaSuccess)
    return e;
  cards().drive(held, [&q, until = q->given] { return q->done >= until; });
  return cudaSuccess;
}
inline cudaError_t synchronise_device(guard& held, int device) {
  if (auto const e = may_wait_for_device(device); e != cudaSuccess)
    return e;
  for (auto const& q : std::vector{cards().queues})
    if (q->device == device)
      cards().drive(held, [&q, until = q->given] { return q->done >= until; });
  return cudaSuccess;
}
/// What must hold before anything is asked of a device.
inline cudaError_t have_device() {
  return settings().devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}

}  // namespace emulator

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  using namespace emulator;
  guard const held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  if (s == nullptr || flags > cudaStreamNonBlocking)
    return result(cudaErrorInvalidValue);
  auto q = std::make_shared<queue>();
  q->device = current_device();
  q->blocking = flags == cudaStreamDefault;
  cards().queues.push_back(q);
  *s = new CUstream_st{q};
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* s) {
  return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}
/// What the stream has been given is still done.
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
  using namespace emulator;
  guard const held{cards().lock};
  if (s == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  if (s->work->capture != nullptr)
    return result(invalidate(*s->work, cudaErrorStreamCaptureUnsupported));
  delete s;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  using namespace emulator;
  guard held{cards().lock};
  return result(synchronise(held, queue_of(s)));
}
/// Each question lets every stream do one operation.
inline cudaError_t cudaStreamQuery(cudaStream_t s) {
  using namespace emulator;
  guard const held{cards().lock};
  auto const q = queue_of(s);
  if (auto const e = may_wait(*q); e != cudaSuccess)
    return result(e);
  if (q->done < q->given)
    cards().advance();
  return result(q->done < q->given ? cudaErrorNotReady : cudaSuccess);
}
inline cudaError_t cudaDeviceSynchronize() {
  using namespace emulator;
  guard held{cards().lock};
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  return result(synchronise_device(held, current_device()));
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  using namespace emulator;
  if (auto const e = have_device(); e != cudaSuccess)
    return result(e);
  auto state = std::make_shared<moment>();
  state->device = current_device();
  state->timing = (flags & cudaEventDisableTiming) == 0;
  *event = new CUevent_st{std::move(state)};
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  using namespace emulator;
  guard const held{cards().lock};
  if (event == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s = nullptr) {
  using namespace emulator;
  guard const held{cards().lock};
  if (event == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  auto const q = queue_of(s);
  auto const m = event->state;
  if (m->device != q->device)
    return result(cudaErrorInvalidResourceHandle);
  if (q->capture != nullptr) {
    if (q->capture->invalid)
      return result(cudaErrorStreamCaptureInvalidated);
    m->captured = true;
    m->capture = q->capture;
    m->before = q->before;
    return cudaSuccess;
  }
  m->captured = false;
  m->capture.reset();
  return result(enqueue(*q, kind::record, [m, turn = ++m->recorded] {
    m->done = std::max(m->done, turn);
    m->at = std::chrono::steady_clock::now();
    return true;
  }));
}
/// Recorded in a capture, the event brings the stream into it; otherwise the stream waits for its latest record.
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned = 0) {
  using namespace emulator;
  guard const held{cards().lock};
  if (event == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  auto const q = queue_of(s);
  auto const m = event->state;
  if (auto const c = m->capture.lock()) {
    if (q->capture != nullptr && q->capture != c)
      return result(invalidate(*q, cudaErrorStreamCaptureMerge));
    if (q->capture == nullptr) {
      q->capture = c;
      q->recorded = 0;
      q->before.clear();
      c->members.push_back(q);
    }
    for (auto const& [stream, count] : m->before) q->before[stream] = std::max(q->before[stream], count);
    return cudaSuccess;
  }
  if (m->captured)  // in a capture that has ended
    return result(cudaErrorCapturedEvent);
  if (q->capture != nullptr)
    return result(m->recorded == 0 ? cudaSuccess : invalidate(*q, cudaErrorStreamCaptureIsolation));
  if (m->recorded == 0)
    return cudaSuccess;
  return result(enqueue(*q, kind::wait, [m, turn = m->recorded] { return m->done >= turn; }));
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  using namespace emulator;
  guard const held{cards().lock};
  if (event == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  auto const m = event->state;
  if (m->captured)
    return result(cudaErrorCapturedEvent);
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  if (m->done < m->recorded)
    cards().advance();
  return result(m->done < m->recorded ? cudaErrorNotReady : cudaSuccess);
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  using namespace emulator;
  guard held{cards().lock};
  if (event == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  auto const m = event->state;
  if (m->captured)
    return result(cudaErrorCapturedEvent);
  if (auto const e = may_be_unsafe(); e != cudaSuccess)
    return result(e);
  cards().drive(held, [&m, turn = m->recorded] { return m->done >= turn; });
  return cudaSuccess;
}
/// The host's time, between the moments at which the emulator came to the two.
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  using namespace emulator;
  guard const held{cards().lock};
  if (ms == nullptr)
    return result(cudaErrorInvalidValue);
  if (start == nullptr || end == nullptr)
    return result(cudaErrorInvalidResourceHandle);
  for (auto const* event : {start, end}) {
    auto const& m = *event->state;
    if (!m.timing || m.recorded == 0)
      return result(cudaErrorInvalidResourceHandle);
    if (m.done < m.recorded)
      return result(cudaErrorNotReady);
  }
  *ms = std::chrono::duration<float, std::milli>(end->state->at - start->state->at).count();
  return cudaSuccess;
}
