// A communicator of MPI's that never blocks: what is started is asked for until it is done, or until nobody waits
// longer. Ranks compare what they call before they do it.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/parallel/call.hpp>
#include <yoke/parallel/meeting.hpp>
#include <yoke/parallel/mpi_session.hpp>
#include <yoke/parallel/traffic.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

namespace yoke::parallel {

/// Who sums.
enum class mpi_sums {
  in_rank_order,  // Yoke: rank 0's values, then rank 1's, …, rounded once, bit for bit as threads do it
  by_library      // MPI, in an order of its own (networks that sum); bf16 in float, but rounded at each pair
};

/// Of a communicator and those that are split from it; the same on every rank.
struct mpi_options {
  /// How long ranks may have to wait for each other in a collective, and for each piece of what they exchange.
  std::chrono::milliseconds timeout{25'000};
  mpi_sums sums = mpi_sums::in_rank_order;
  std::size_t piece =
      std::size_t{1} << 26;  // bytes that are under way at a time, and the most memory that sums take
};

namespace detail {

/// The numbers in which ranks' calls may differ; all of them, and their negatives, are numbers of MPI's.
inline std::array<std::int64_t, 6> numbers_of(call const& c) {
  return {c.which, static_cast<std::int64_t>(c.elements),  c.element_size, c.how,
          c.root,  static_cast<std::int64_t>(c.parts >> 1)};
}
inline call call_of_numbers(std::int64_t const* n) {
  return {.elements = static_cast<std::uint64_t>(n[1]),
          .parts = static_cast<std::uint64_t>(n[5]) << 1,
          .which = static_cast<std::uint32_t>(n[0]),
          .element_size = static_cast<std::uint32_t>(n[2]),
          .how = static_cast<std::uint32_t>(n[3]),
          .root = static_cast<std::uint32_t>(n[4])};
}

/// All ranks call its functions alike. What these throw ends the session, and what is under way then is left to MPI:
/// the owner does not destroy a handle whose session has failed.
class mpi_handle {
 public:
  /// The ranks of `of`, in a communicator of their own.
  mpi_handle(mpi_session& session, mpi_options const& options, MPI_Comm of)
      : session_{&session}, options_{options} {
    expects(options.timeout.count() > 0, "mpi: the timeout is positive");
    expects(options.piece > 0 && options.piece <= std::size_t{1} << 30, "mpi: a piece is of 1 byte to 1 GiB");
    session.expect_alive();
    ending_session([&] {
      learn_names(of, session.next_name());
      auto results = std::make_unique<of_all_ranks>();
      try {
        start([&](MPI_Request* r) { return MPI_Comm_idup(of, &results->ranks, r); });
        wait();
        ranks_ = results->ranks;
        learn_ranks();
        results->name = name_;
        start([&](MPI_Request* r) {  // where ranks have made others among themselves before
          return MPI_Iallreduce(MPI_IN_PLACE, &results->name, 1, MPI_INT64_T, MPI_MAX, ranks_, r);
        });
        wait();
      } catch (...) {
        static_cast<void>(results.release());  // MPI may still write it
        throw;
      }
      name_ = results->name;
    });
  }
  /// Those of `whole` that name the same color.
  mpi_handle(mpi_handle& whole, int color) : session_{whole.session_}, options_{whole.options_} {
    whole.run({.which = split_call}, [&] {
      auto& colors = whole.gathered_;
      colors.assign(static_cast<std::size_t>(whole.size()), color);
      whole.start([&](MPI_Request* r) {
        return MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, colors.data(), 1, MPI_INT64_T, whole.ranks_,
                              r);
      });
      whole.wait();  // now all are there, and the next call does not wait for anybody
      auto const first =
          std::find(colors.begin(), colors.end(), color) - colors.begin();  // MPI takes none below 0
      whole.check(MPI_Comm_split(whole.ranks_, static_cast<int>(first), whole.rank_, &ranks_));
      learn_names(ranks_, hash(whole.name_, whole.number_));
      learn_ranks();
    });
  }
  mpi_handle(mpi_handle const&) = delete;
  mpi_handle& operator=(mpi_handle const&) = delete;
  ~mpi_handle() {
    if (!mpi_has_ended())
      MPI_Comm_free(&ranks_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  MPI_Comm get() const { return ranks_; }
  mpi_options const& options() const { return options_; }
  mpi_session& session() const { return *session_; }
  parallel::traffic const& traffic() const { return traffic_; }

  /// Does a collective: work() starts and awaits what it consists of, once all ranks have come and called the same. So
  /// nothing is under way when one does not come, or differs.
  template <class Work>
  void run(detail::call const& call, Work const& work) {
    session_->expect_alive();
    ending_session([&] {
      call_ = call;
      ++number_;
      if (size_ > 1)
        compare();
      work();
    });
  }
  /// The same, counted.
  template <class Work>
  void run(detail::call const& call, double sent, Work const& work) {
    auto const since = mpi_pause::clock::now();
    run(call, work);
    traffic_.count(static_cast<collective>(call.which), sent);
    traffic_.seconds += std::chrono::duration<double>(mpi_pause::clock::now() - since).count();
  }

  /// Returns when all ranks have called it, one of them so much later.
  void meet(std::chrono::milliseconds patience) {
    auto const timeout = std::exchange(options_.timeout, std::max(patience, options_.timeout));
    run({.which = static_cast<std::uint32_t>(collective::barrier)}, 0, [] {});
    options_.timeout = timeout;
  }

  /// Starts what call(request) starts.
  template <class Call>
  void start(Call const& call) {
    requests_.push_back(MPI_REQUEST_NULL);
    check(call(&requests_.back()));
  }
  void send(int to, void const* from, std::size_t bytes) {
    if (bytes > 0)
      start([&](MPI_Request* r) {
        return MPI_Isend(from, static_cast<int>(bytes), MPI_BYTE, to, payload, ranks_, r);
      });
  }
  void receive(int from, void* to, std::size_t bytes) {
    if (bytes > 0)
      start([&](MPI_Request* r) {
        return MPI_Irecv(to, static_cast<int>(bytes), MPI_BYTE, from, payload, ranks_, r);
      });
  }
  /// Returns when all that was started is done.
  void wait() {
    auto told = false;
    for (mpi_pause pause; !test(); pause()) {
      if (pause.waited() > options_.timeout)
        throw error(waited_in_vain());
      if (pause.waited() > options_.timeout / 10) {
        session_->roll().wait(name_, number_ + 1, names_, options_.timeout / 10);
        told = true;
      }
    }
    if (told)
      session_->roll().go_on(name_);
    requests_.clear();
  }

  /// FNV-1a.
  static std::int64_t hash(std::int64_t before, std::int64_t number) {
    return static_cast<std::int64_t>(
        (static_cast<std::uint64_t>(before) ^ static_cast<std::uint64_t>(number)) * 0x100000001b3);
  }

 private:
  static constexpr int payload = 0;  // the tag of what is sent
  struct of_all_ranks {
    MPI_Comm ranks = MPI_COMM_NULL;
    std::int64_t name = 0;
  };

  template <class F>
  void ending_session(F const& work) {
    try {
      work();
    } catch (std::exception const& e) {
      session_->give_up(e.what());
      throw;
    }
  }

  /// The ranks as MPI_COMM_WORLD has them, and a name for the communicator.
  void learn_names(MPI_Comm of, std::int64_t seed) {
    int size = 0;
    check(MPI_Comm_size(of, &size));
    std::vector<int> mine(static_cast<std::size_t>(size));
    for (int r = 0; r < size; ++r) mine[static_cast<std::size_t>(r)] = r;
    names_ = mine;
    MPI_Group ours = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
    check(MPI_Comm_group(of, &ours));
    check(MPI_Comm_group(MPI_COMM_WORLD, &all));
    check(MPI_Group_translate_ranks(ours, size, mine.data(), all, names_.data()));
    MPI_Group_free(&ours);
    MPI_Group_free(&all);
    check(MPI_Comm_rank(of, &rank_));
    name_ = seed;
    for (auto const r : names_) name_ = hash(name_, r);
  }
  void learn_ranks() {
    check(MPI_Comm_set_errhandler(ranks_, MPI_ERRORS_RETURN));
    check(MPI_Comm_rank(ranks_, &rank_));
    check(MPI_Comm_size(ranks_, &size_));
  }

  /// Where the largest of each number is also the smallest, all have called the same.
  void compare() {
    auto const mine = numbers_of(call_);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      said_[2 * i] = mine[i];
      said_[2 * i + 1] = -mine[i];
    }
    start([&](MPI_Request* r) {
      return MPI_Iallreduce(said_.data(), largest_.data(), static_cast<int>(said_.size()), MPI_INT64_T,
                            MPI_MAX, ranks_, r);
    });
    wait();
    for (std::size_t i = 0; i < largest_.size(); i += 2)
      if (largest_[i] != -largest_[i + 1])
        throw error(difference());
  }
  /// The first rank that differs from the first of all; every rank comes here.
  std::string difference() {
    auto const mine = numbers_of(call_);
    auto const n = mine.size();
    gathered_.resize(n * static_cast<std::size_t>(size_));
    std::copy(mine.begin(), mine.end(),
              gathered_.begin() + static_cast<std::ptrdiff_t>(n) * static_cast<std::ptrdiff_t>(rank_));
    start([&](MPI_Request* r) {
      return MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, gathered_.data(), static_cast<int>(n),
                            MPI_INT64_T, ranks_, r);
    });
    wait();
    auto const call_of = [&](std::size_t r) { return call_of_numbers(gathered_.data() + n * r); };
    std::size_t other = 1;
    while (call_of(other) == call_of(0)) ++other;
    return detail::difference(names_[0], call_of(0), names_[other], call_of(other));
  }

  /// Whether all that was started is done.
  bool test() {
    int done = 0;
    statuses_.resize(requests_.size());
    auto const code =
        MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses_.data());
    for (std::size_t i = 0; code == MPI_ERR_IN_STATUS && i < statuses_.size(); ++i)
      if (auto const own = statuses_[i].MPI_ERROR; own != MPI_ERR_PENDING)
        check(own);
    check(code);
    return done != 0;
  }

  int world_rank() const { return names_.empty() ? 0 : names_[static_cast<std::size_t>(rank_)]; }
  void check(int code) const {
    if (code != MPI_SUCCESS)
      throw error(said_by_mpi(code));
  }
  std::string place() const { return number_ == 0 ? "the start of a communicator" : call_.text(); }
  std::string said_by_mpi(int code) const {
    return "rank " + std::to_string(world_rank()) + ": " + place() + ": MPI says " + mpi_words(code);
  }
  std::string waited_in_vain() {
    return "rank " + std::to_string(world_rank()) + " has waited " + text_of(options_.timeout) + " in " +
           place() + (number_ == 0 ? "" : ", its collective number " + std::to_string(number_)) + ": " +
           session_->roll().words(name_, number_ + 1, names_);
  }

  mpi_session* session_;
  mpi_options options_;
  MPI_Comm ranks_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<int> names_;  // the ranks as MPI_COMM_WORLD has them
  std::int64_t name_ = 0;   // of the communicator, the same on its ranks
  detail::call call_;
  std::int64_t number_ = 0;  // of collectives
  std::array<std::int64_t, 2 * std::tuple_size_v<decltype(numbers_of({}))>> said_{}, largest_{};
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
  std::vector<std::int64_t> gathered_;  // numbers of every rank
  parallel::traffic traffic_;
};

}  // namespace detail
}  // namespace yoke::parallel
