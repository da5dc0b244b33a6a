// NCCL among threads of one process, emulated on the emulator's streams: the part of it that Yoke uses, with NCCL 2.28's
// names and numbers. See emulator/clique.hpp for what it checks and how a test disturbs it.
#pragma once
#include "cuda_runtime.h"
#include "emulator/clique.hpp"
#include <climits>

#define YOKE_EMULATED_NCCL 1
#define NCCL_VERSION(X, Y, Z) ((X)*10000 + (Y)*100 + (Z))
#define NCCL_VERSION_CODE NCCL_VERSION(2, 28, 9)

struct ncclComm {
  std::shared_ptr<emulated_nccl::member> self;
};

struct ncclConfig_t {
  std::size_t size;
  unsigned magic, version;
  int blocking;
};
#define NCCL_CONFIG_INITIALIZER \
  { sizeof(ncclConfig_t), 0xcafebeef, NCCL_VERSION_CODE, INT_MIN }

namespace emulated_nccl {

inline std::vector<std::unique_ptr<ncclComm>>& handles() {
  static std::vector<std::unique_ptr<ncclComm>> all;
  return all;
}

inline member& alive(ncclComm_t comm, char const* what) {
  if (comm == nullptr || comm->self->ended)
    emulator::fail(std::string(what) + " of a communicator that is not, or no more");
  return *comm->self;
}

inline ncclResult_t call(ncclComm_t comm, cudaStream_t stream, request what) {
  emulator::guard const held{emulator::cards().lock};
  auto& self = alive(comm, what.name.data());
  auto const parts = static_cast<std::size_t>(self.group->size);
  auto const must_hold = [&](void const* p, std::size_t bytes) {
    if (!emulator::cards().memory.holds(p, bytes))
      emulator::fail(std::string(what.name) + ": a buffer is not, or not all, in a card's memory");
  };
  if (what.name != "ncclRecv")
    must_hold(what.from, what.bytes() * (what.name == "ncclReduceScatter" ? parts : 1));
  if (what.name != "ncclSend")
    must_hold(what.to, what.bytes() * (what.name == "ncclAllGather" ? parts : 1));
  if (what.peer < 0 || what.peer >= self.group->size)
    return ncclInvalidArgument;
  if (!self.starting.empty() || self.splitting != nullptr ||
      self.finalising)  // NCCL asks to be asked first whether it is through
    return ncclInvalidUsage;
  auto& group = current_group();
  group.calls.push_back({comm->self, stream, what});
  return group.depth > 0 ? ncclSuccess : launch(std::exchange(group, {}));
}

}  // namespace emulated_nccl

inline char const* ncclGetErrorString(ncclResult_t r) {
  switch (r) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclNumResults:
      break;
  }
  return "unknown result code";
}
inline char const* ncclGetLastError(ncclComm_t) {
  return "emulated";
}

inline ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  emulator::guard const held{emulator::cards().lock};
  static std::uint64_t last = 0;
  *id = {};
  ++last;
  std::memcpy(id->internal, &last, sizeof last);
  return ncclSuccess;
}

/// In progress until all ranks have called it.
inline ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                           ncclConfig_t* config) {
  using namespace emulated_nccl;
  emulator::guard const held{emulator::cards().lock};
  if (config == nullptr || config->magic != 0xcafebeef || config->blocking != 0)
    emulator::fail("the emulated NCCL knows non-blocking communicators only");
  if (size < 1 || rank < 0 || rank >= size)
    return ncclInvalidArgument;
  auto& group = cliques()[std::string(id.internal, sizeof id.internal)];
  if (group == nullptr)
    group = std::make_shared<clique>(size);
  if (group->size != size || group->joined.contains(rank))
    return ncclInvalidArgument;
  group->joined.insert(rank);
  auto self = std::make_shared<member>(group, rank);
  members().push_back(self);
  *comm = new ncclComm{self};
  handles().push_back(std::unique_ptr<ncclComm>{*comm});  // kept, so that a use after the end is found
  return ncclInProgress;
}

/// In progress, as its parent is, until all ranks have called it.
inline ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made,
                                  ncclConfig_t* config) {
  using namespace emulated_nccl;
  emulator::guard const held{emulator::cards().lock};
  auto& self = alive(comm, "ncclCommSplit");
  if (config != nullptr)
    emulator::fail("the emulated NCCL splits communicators with their configuration");
  if (self.under_way > 0 || self.splitting != nullptr || self.finalising)
    emulator::fail("ncclCommSplit of a communicator that has something under way");
  if (color < 0)
    emulator::fail("ncclCommSplit with a color below 0");
  *made = nullptr;
  auto const number = self.splits++;
  self.group->divisions[number].calls[self.rank] = {color, key};
  self.splitting = [&self, number, made] {
    auto const part = divide(self, number);
    if (part == nullptr)
      return false;
    members().push_back(part);
    handles().push_back(std::make_unique<ncclComm>(ncclComm{part}));
    *made = handles().back().get();
    return true;
  };
  return ncclInProgress;
}

/// What takes its time goes on a little here, as NCCL's own thread would have it do.
inline ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  emulator::guard const held{emulator::cards().lock};
  *state = emulated_nccl::alive(comm, "ncclCommGetAsyncError").progress();
  return ncclSuccess;
}

inline ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  emulator::guard const held{emulator::cards().lock};
  emulated_nccl::alive(comm, "ncclCommFinalize").finalising = true;
  return ncclInProgress;
}
inline ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  emulator::guard const held{emulator::cards().lock};
  auto& self = emulated_nccl::alive(comm, "ncclCommDestroy");
  if (!self.finalising || self.progress() != ncclSuccess)
    emulator::fail("ncclCommDestroy of a communicator that has not been finalised");
  self.ended = true;
  ++emulated_nccl::seen().destroyed;
  return ncclSuccess;
}
inline ncclResult_t ncclCommAbort(ncclComm_t comm) {
  emulator::guard const held{emulator::cards().lock};
  auto& self = emulated_nccl::alive(comm, "ncclCommAbort");
  self.ended = self.aborted = true;
  ++emulated_nccl::seen().aborted;
  return ncclSuccess;
}

inline ncclResult_t ncclGroupStart() {
  ++emulated_nccl::current_group().depth;
  return ncclSuccess;
}
inline ncclResult_t ncclGroupEnd() {
  using namespace emulated_nccl;
  emulator::guard const held{emulator::cards().lock};
  auto& group = current_group();
  if (group.depth == 0)
    return ncclInvalidUsage;
  return --group.depth > 0 ? ncclSuccess : launch(std::exchange(group, {}));
}

inline ncclResult_t ncclSend(void const* from, std::size_t count, ncclDataType_t type, int peer,
                             ncclComm_t comm, cudaStream_t stream) {
  return emulated_nccl::call(comm, stream,
                             {.name = "ncclSend", .from = from, .count = count, .type = type, .peer = peer});
}
inline ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                             cudaStream_t stream) {
  return emulated_nccl::call(comm, stream,
                             {.name = "ncclRecv", .to = to, .count = count, .type = type, .peer = peer});
}
inline ncclResult_t ncclAllGather(void const* from, void* to, std::size_t count, ncclDataType_t type,
                                  ncclComm_t comm, cudaStream_t stream) {
  return emulated_nccl::call(comm, stream,
                             {.name = "ncclAllGather", .from = from, .to = to, .count = count, .type = type});
}
inline ncclResult_t ncclBroadcast(void const* from, void* to, std::size_t count, ncclDataType_t type,
                                  int root, ncclComm_t comm, cudaStream_t stream) {
  return emulated_nccl::call(
      comm, stream,
      {.name = "ncclBroadcast", .from = from, .to = to, .count = count, .type = type, .peer = root});
}
inline ncclResult_t ncclReduceScatter(void const* from, void* to, std::size_t count, ncclDataType_t type,
                                      ncclRedOp_t how, ncclComm_t comm, cudaStream_t stream) {
  return emulated_nccl::call(
      comm, stream,
      {.name = "ncclReduceScatter", .from = from, .to = to, .count = count, .type = type, .how = how});
}
inline ncclResult_t ncclAllReduce(void const* from, void* to, std::size_t count, ncclDataType_t type,
                                  ncclRedOp_t how, ncclComm_t comm, cudaStream_t stream) {
  return emulated_nccl::call(
      comm, stream,
      {.name = "ncclAllReduce", .from = from, .to = to, .count = count, .type = type, .how = how});
}
