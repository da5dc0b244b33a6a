// Ranks that are threads of this process, and what they ask NCCL for. A collective pends in its stream until all ranks'
// streams have come to theirs; one that a rank never calls, or calls with other arguments, pends until it is aborted.
// What is forbidden ends the program with a sentence: memory that is not the card's, a communicator used after its end.
#pragma once
#include "../cuda_bf16.h"
#include "streams.hpp"
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclNumResults = 8
};
enum ncclRedOp_t { ncclSum = 0, ncclProd = 1, ncclMax = 2, ncclMin = 3, ncclAvg = 4 };
enum ncclDataType_t {
  ncclInt8 = 0,
  ncclChar = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclInt = 2,
  ncclInt64 = 4,
  ncclFloat32 = 7,
  ncclFloat = 7,
  ncclFloat64 = 8,
  ncclDouble = 8,
  ncclBfloat16 = 9
};
inline constexpr int NCCL_UNIQUE_ID_BYTES = 128;
struct ncclUniqueId {
  char internal[NCCL_UNIQUE_ID_BYTES];
};
struct ncclComm;
using ncclComm_t = ncclComm*;

namespace emulated_nccl {

/// What a test may ask for; of the process, under the emulator's lock.
struct counts {
  int aborted = 0, destroyed = 0;  // communicators
  int mismatches = 0;              // collectives that ranks have called differently
};
inline counts& seen() {
  static counts c;
  return c;
}

inline std::size_t size_of(ncclDataType_t t) {
  switch (t) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
  }
  emulator::fail("the emulated NCCL does not know an element type");
}

/// A call, as it was made.
struct request {
  std::string_view name;
  void const* from = nullptr;
  void* to = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t how = ncclSum;
  int peer = 0;

  std::size_t bytes() const { return count * size_of(type); }
  bool agrees_with(request const& other) const {
    return name == other.name && count == other.count && type == other.type && how == other.how &&
           peer == other.peer;
  }
};

/// What is on its way from one rank to another.
struct letter {
  request sent;
  bool taken = false;
};

struct clique {
  explicit clique(int ranks) : size{ranks} {}

  /// A collective, until all ranks have done it.
  struct round {
    std::map<int, request> calls;
    bool complete = false, differs = false;
    int done = 0;
  };

  /// A split, until all ranks have called it: colors and keys, and what the colors' ranks become.
  struct division {
    std::map<int, std::pair<int, int>> calls;
    std::map<int, std::shared_ptr<clique>> parts;
  };

  int size;
  std::set<int> joined;
  std::map<std::uint64_t, division> divisions;  // by their number on every rank
  std::map<std::uint64_t, round> rounds;        // by their number on every rank
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<letter>>> letters;  // from, to
};
inline std::map<std::string, std::shared_ptr<clique>>& cliques() {
  static std::map<std::string, std::shared_ptr<clique>> all;
  return all;
}

template <class V>
V combined(V a, V b, ncclRedOp_t how) {
  return how == ncclSum ? a + b : std::max(a, b);
}
/// As NCCL does it: rounded after each pair.
inline __nv_bfloat16 combined(__nv_bfloat16 a, __nv_bfloat16 b, ncclRedOp_t how) {
  return __float2bfloat16_rn(combined(__bfloat162float(a), __bfloat162float(b), how));
}

template <class V>
void reduce(std::vector<request> const& calls, bool scatter) {
  auto const n = calls[0].count * (scatter ? calls.size() : 1);
  std::vector<V> result(n);
  for (std::size_t r = 0; r < calls.size(); ++r)
    for (std::size_t i = 0; i < n; ++i) {
      auto const v = static_cast<V const*>(calls[r].from)[i];
      result[i] = r == 0 ? v : combined(result[i], v, calls[0].how);
    }
  for (std::size_t r = 0; r < calls.size(); ++r)
    std::memcpy(calls[r].to, result.data() + (scatter ? r * calls[0].count : 0), calls[r].bytes());
}

/// Does a collective for all ranks at once.
inline void perform(std::vector<request> const& calls) {
  auto const& first = calls[0];
  if (first.name == "ncclAllGather" || first.name == "ncclBroadcast") {
    std::vector<char> all;
    for (auto const& c : calls)
      if (first.name == "ncclAllGather" || &c == &calls[static_cast<std::size_t>(first.peer)])
        all.insert(all.end(), static_cast<char const*>(c.from), static_cast<char const*>(c.from) + c.bytes());
    for (auto const& c : calls) std::memcpy(c.to, all.data(), all.size());
  } else if (first.how != ncclSum && first.how != ncclMax) {
    emulator::fail("the emulated NCCL only sums, or finds the maximum");
  } else if (first.type == ncclFloat32) {
    reduce<float>(calls, first.name == "ncclReduceScatter");
  } else if (first.type == ncclFloat64) {
    reduce<double>(calls, first.name == "ncclReduceScatter");
  } else if (first.type == ncclBfloat16) {
    reduce<__nv_bfloat16>(calls, first.name == "ncclReduceScatter");
  } else {
    emulator::fail("the emulated NCCL reduces floats, doubles and bfloat16");
  }
}

/// One rank.
struct member {
  member(std::shared_ptr<clique> c, int r) : group{std::move(c)}, rank{r} {}

  std::shared_ptr<clique> group;
  int rank;
  bool finalising = false, aborted = false, ended = false;
  ncclResult_t broken = ncclSuccess;  // what a test has injected
  std::uint64_t collectives = 0;
  int under_way = 0;
  std::vector<std::function<void()>> starting;  // calls that have not come to the stream
  std::uint64_t splits = 0;
  std::function<bool()> splitting;  // true when it is through

  ncclResult_t progress() {
    if (broken != ncclSuccess)
      return broken;
    if (group->joined.size() < static_cast<std::size_t>(group->size))
      return ncclInProgress;
    if (splitting != nullptr) {
      if (!splitting())
        return ncclInProgress;
      splitting = nullptr;
    }
    for (auto const& start : std::exchange(starting, {})) start();
    return finalising && under_way > 0 ? ncclInProgress : ncclSuccess;
  }

  /// A step of a collective; true when it is done.
  bool collective(std::uint64_t number, request const& mine) {
    auto& round = group->rounds[number];
    if (!round.calls.contains(rank)) {
      round.calls[rank] = mine;
      for (auto const& [r, other] : round.calls)
        if (!other.agrees_with(mine) && !std::exchange(round.differs, true))
          ++seen().mismatches;
      if (!round.differs && round.calls.size() == static_cast<std::size_t>(group->size)) {
        std::vector<request> in_order;
        for (auto const& [r, call] : round.calls) in_order.push_back(call);
        perform(in_order);
        round.complete = true;
      }
    }
    auto const complete = round.complete;
    if (complete && ++round.done == group->size)
      group->rounds.erase(number);
    return complete;
  }
};

/// A step of this rank's split: what it has become, or nothing before all ranks have called it.
inline std::shared_ptr<member> divide(member& self, std::uint64_t number) {
  auto const& group = *self.group;
  auto& division = self.group->divisions[number];
  if (division.calls.size() < static_cast<std::size_t>(group.size))
    return nullptr;
  auto const [color, key] = division.calls[self.rank];
  int size = 0, rank = 0;
  for (auto const& [r, call] : division.calls) {
    size += call.first == color ? 1 : 0;
    rank += call.first == color && std::pair{call.second, r} < std::pair{key, self.rank} ? 1 : 0;
  }
  auto& part = division.parts[color];
  if (part == nullptr)
    part = std::make_shared<clique>(size);
  for (int r = 0; r < size; ++r) part->joined.insert(r);
  return std::make_shared<member>(part, rank);
}

inline std::vector<std::weak_ptr<member>>& members() {
  static std::vector<std::weak_ptr<member>> all;
  return all;
}

/// From now on, NCCL reports an error on this rank's communicators that are in use.
inline void inject(int rank, ncclResult_t error) {
  emulator::guard const held{emulator::cards().lock};
  for (auto const& m : members())
    if (auto const self = m.lock(); self != nullptr && self->rank == rank && !self->ended)
      self->broken = error;
}
inline counts look() {
  emulator::guard const held{emulator::cards().lock};
  return seen();
}

/// Sends and receives that go together.
struct mail {
  std::vector<std::shared_ptr<letter>> outgoing;
  std::vector<request> incoming;
  bool posted = false, differs = false;
};

/// A step of an exchange; true when all that was sent is taken and all that is awaited has come.
inline bool deliver(member& self, mail& m) {
  auto& letters = self.group->letters;
  if (!std::exchange(m.posted, true))
    for (auto const& l : m.outgoing) letters[{self.rank, l->sent.peer}].push_back(l);
  std::erase_if(m.incoming, [&](request const& awaited) {
    auto& box = letters[{awaited.peer, self.rank}];
    if (box.empty())
      return false;
    auto const& sent = box.front()->sent;
    if (sent.bytes() != awaited.bytes()) {
      if (!std::exchange(m.differs, true))
        ++seen().mismatches;
      return false;
    }
    std::memcpy(awaited.to, sent.from, sent.bytes());
    box.front()->taken = true;
    box.pop_front();
    return true;
  });
  return m.incoming.empty() &&
         std::all_of(m.outgoing.begin(), m.outgoing.end(), [](auto const& l) { return l->taken; });
}

/// Calls of this thread that go together.
struct group_of_calls {
  struct call {
    std::shared_ptr<member> self;
    cudaStream_t stream;
    request what;
  };
  int depth = 0;
  std::vector<call> calls;
};
inline group_of_calls& current_group() {
  thread_local group_of_calls g;
  return g;
}

/// NCCL takes up the calls some time after they return. What is aborted ends without having been done.
inline ncclResult_t launch(group_of_calls const& group) {
  std::map<std::pair<std::shared_ptr<member>, cudaStream_t>, std::shared_ptr<mail>> exchanges;
  auto const later = [](std::shared_ptr<member> const& self, cudaStream_t stream, auto step) {
    ++self->under_way;
    self->starting.push_back([keep = std::weak_ptr{self}, stream, step] {
      emulator::enqueue(stream, [self = keep.lock(), step] {
        auto const through = self->aborted || (self->broken == ncclSuccess && step(*self));
        self->under_way -= through ? 1 : 0;
        return through;
      });
    });
  };
  for (auto const& [self, stream, what] : group.calls) {
    if (what.name == "ncclSend" || what.name == "ncclRecv") {
      auto& m = exchanges[{self, stream}];
      if (m == nullptr)
        m = std::make_shared<mail>();
      if (what.name == "ncclSend")
        m->outgoing.push_back(std::make_shared<letter>(letter{what}));
      else
        m->incoming.push_back(what);
    } else {
      later(self, stream,
            [what = what, number = self->collectives++](member& m) { return m.collective(number, what); });
    }
  }
  for (auto const& [where, m] : exchanges)
    later(where.first, where.second, [m = m](member& self) { return deliver(self, *m); });
  return group.calls.empty() ? ncclSuccess : ncclInProgress;
}

}  // namespace emulated_nccl
