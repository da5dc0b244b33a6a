// The sum of gradients over the ranks that share out the batch: in buckets, each as soon as its last gradient is there.
#pragma once
#include <yoke/autograd/gradient_watch.hpp>
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace yoke::train {

namespace detail {

/// Elements [begin, end) of a gradient block's flat run.
struct bucket {
  extent_t begin, end;
};

/// Neighbouring parameters whose gradients take up to `bytes` bytes, each of `element_size`; at least one a bucket.
inline std::vector<bucket> buckets_of(parameter_list const& list, extent_t element_size, extent_t bytes) {
  std::vector<bucket> all;
  auto const& infos = list.infos();
  for (std::size_t i = 0; i < infos.size(); ++i) {
    auto const end = i + 1 < infos.size() ? infos[i + 1].offset : list.elements();
    if (!all.empty() && (end - all.back().begin) * element_size <= bytes)
      all.back().end = end;
    else
      all.push_back({infos[i].offset, end});
  }
  return all;
}

/// A thread that works off what it is given, in order. The first exception ends it, and is thrown by finish().
template <class Task>
class worker {
 public:
  explicit worker(std::function<void(Task const&)> work)
      : work_{std::move(work)}, thread_{[this] { run(); }} {}
  worker(worker const&) = delete;
  worker& operator=(worker const&) = delete;
  ~worker() {
    {
      std::lock_guard const lock{mutex_};
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void give(Task task) {
    {
      std::lock_guard const lock{mutex_};
      tasks_.push_back(task);
    }
    changed_.notify_all();
  }
  /// Returns when all is done.
  void finish() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return failure_ || (tasks_.empty() && !works_); });
    if (failure_)
      std::rethrow_exception(failure_);
  }

 private:
  void run() noexcept {
    std::unique_lock lock{mutex_};
    while (true) {
      changed_.wait(lock, [&] { return ends_ || !tasks_.empty(); });
      if (tasks_.empty())
        return;
      auto const task = tasks_.front();
      tasks_.pop_front();
      works_ = true;
      lock.unlock();
      std::exception_ptr failure;
      try {
        work_(task);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      works_ = false;
      if (failure) {
        failure_ = failure;
        changed_.notify_all();
        return;
      }
      changed_.notify_all();
    }
  }

  std::function<void(Task const&)> work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool works_ = false, ends_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace detail

/// Sums gradient blocks over ranks. A step's backward pass tells it, as a gradient_watch, which gradients it adds to; how
/// often each is added to is learnt in one step, and from then on a bucket whose gradients are complete is summed while
/// the backward pass goes on, by a communicator of its own: a thread's, or for gradients in a card's memory one that has a
/// stream of its own (split_beside). Steps are told apart by a signature: whatever changes how often a parameter is used
/// (such as the number of micro-batches). All ranks sum the same buckets in the same order, since they run the same
/// program.
template <class C, parallel::communicator Ranks>
class gradient_sum final : public gradient_watch {
  using P = parameter_element_t<C>;

 public:
  /// Every rank makes one. `overlap`: false sums all buckets at the end, as communicators without streams do in any case
  /// with gradients in a card's memory.
  gradient_sum(C& c, Ranks& ranks, parameter_list const& list, parameter_store<C>& store, bool overlap,
               extent_t bucket_bytes)
      : ranks_{&ranks},
        list_{&list},
        store_{&store},
        buckets_{detail::buckets_of(list, static_cast<extent_t>(sizeof(P)), bucket_bytes)},
        counts_(list.infos().size()),
        missing_(buckets_.size()),
        sent_(buckets_.size()) {
    device_traits const traits = c.traits;
    if (ranks.size() == 1 || !overlap)
      return;
    if (!traits.separate_memory) {
      background_.reset(new Ranks(split(ranks, 0)));  // which need not be movable
      worker_.emplace([this](detail::bucket const& b) { sum(*background_, b); });
    } else if constexpr (parallel::has_streams<Ranks>) {
      background_ = split_beside(ranks);
    }
    if (!background_)
      return;
    std::size_t at = 0;
    for (auto const& p : list.infos()) {
      while (p.offset >= buckets_[at].end) ++at;
      bucket_of_.push_back(at);
    }
  }

  /// For the tapes of the next step; null when nothing is gained by telling.
  gradient_watch* watch(extent_t signature) {
    if (!background_)
      return nullptr;
    std::fill(counts_.begin(), counts_.end(), 0);
    std::fill(sent_.begin(), sent_.end(), false);
    if (signature != signature_) {
      signature_ = signature;
      expected_.clear();
    }
    if (!expected_.empty()) {
      std::fill(missing_.begin(), missing_.end(), 0);
      for (std::size_t i = 0; i < expected_.size(); ++i)
        missing_[bucket_of_[i]] += expected_[i] == 0 ? 1 : expected_[i];
    }
    return this;
  }

  /// Returns when all gradients are summed.
  void finish() {
    if (ranks_->size() == 1)
      return;
    auto const& block = store_->gradient_block();
    if (background_) {
      if (worker_)
        worker_->finish();
      else if constexpr (parallel::has_streams<Ranks>)
        join(*background_);
      expects(expected_.empty() || counts_ == expected_,
              "gradient_sum: a step uses each parameter as often as the step before did; with towers that do "
              "not, turn overlap off");
      expected_ = counts_;
    }
    for (std::size_t b = 0; b < buckets_.size(); ++b)
      if (!sent_[b])
        sum(*ranks_, buckets_[b]);
    if (block.layout().vectors_apart)
      all_reduce(*ranks_, block.vectors());
    if (store_->observations().size() > 0)
      all_reduce(*ranks_, store_->observations());
  }

  /// What the communicator of its own has sent.
  parallel::traffic background_traffic() const {
    return background_ ? parallel::traffic{std::as_const(*background_).traffic()} : parallel::traffic{};
  }

 private:
  void asked_for(extent_t offset) override {
    auto const& infos = list_->infos();
    auto const found = std::lower_bound(infos.begin(), infos.end(), offset,
                                        [](parameter_info const& p, extent_t o) { return p.offset < o; });
    asked_.push_back(static_cast<std::size_t>(found - infos.begin()));
  }
  void added() override {
    for (auto const i : asked_) {
      ++counts_[i];
      if (expected_.empty())
        continue;
      auto const b = bucket_of_[i];
      if (--missing_[b] == 0) {
        sent_[b] = true;
        if (worker_)
          worker_->give(buckets_[b]);
        else
          sum(*background_, buckets_[b]);
      }
    }
    asked_.clear();
  }
  void sum(Ranks& ranks, detail::bucket const& b) {
    all_reduce(ranks, slice(store_->gradients(), b.begin, b.end - b.begin));
  }

  Ranks* ranks_;
  parameter_list const* list_;
  parameter_store<C>* store_;
  std::vector<detail::bucket> buckets_;
  std::vector<std::size_t> bucket_of_;  // of each parameter
  std::vector<int> counts_, expected_;  // of each parameter: additions in this step, and in the step before
  std::vector<int> missing_;            // of each bucket: additions still to come
  std::vector<bool> sent_;              // buckets that the thread has
  std::vector<std::size_t> asked_;      // parameters that the operation at work adds to
  extent_t signature_ = -1;
  std::unique_ptr<Ranks> background_;
  std::optional<detail::worker<detail::bucket>> worker_;
};

}  // namespace yoke::train
