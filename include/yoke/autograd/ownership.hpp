// Who of the ranks that share out the batch updates which parameter.
#pragma once
#include <yoke/autograd/parameter.hpp>

#include <vector>

namespace yoke {

/// Which elements of a flat block are there: [begin, end) of it, and vectors either in their places or in a run of their
/// own, which is always whole.
struct block_layout {
  extent_t begin = 0, end = 0;
  bool vectors_apart = false;

  bool holds(parameter_info const& p) const {
    return (vectors_apart && !p.is_matrix()) || (p.offset >= begin && p.offset < end);
  }
};

/// Each parameter has one owner on the data axis, which keeps its optimiser state and, where matrices have a compute copy,
/// its master values (Rajbhandari et al., "ZeRO", arXiv 1910.02054, stages 1 and the master values). Owners have
/// neighbours of about equal sizes together: of n parameters at least a rank, if there are as many ranks, owns one.
class ownership {
 public:
  /// One rank owns all.
  explicit ownership(parameter_list const& list) : ownership{list, 0, 1} {}
  /// This is rank `rank` of `ranks`.
  ownership(parameter_list const& list, int rank, int ranks) : rank_{rank}, ranks_{ranks} {
    expects(ranks > 0 && rank >= 0 && rank < ranks, "ownership: a rank is below the number of ranks");
    extent_t before = 0;  // elements of earlier parameters
    int owner = 0;
    begins_.assign(1, 0);
    for (auto const& p : list.infos()) {
      // Whose share of all elements a parameter's middle lies in.
      auto const middle = before + p.size() / 2;
      while (owner + 1 < ranks && middle >= list.count() * (owner + 1) / ranks) {
        ++owner;
        begins_.push_back(p.offset);
      }
      owners_.push_back(owner);
      before += p.size();
    }
    begins_.resize(static_cast<std::size_t>(ranks) + 1, list.elements());
  }

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  /// Of a parameter, by its place in the list.
  int owner(std::size_t parameter) const { return owners_[parameter]; }
  bool mine(std::size_t parameter) const { return owners_[parameter] == rank_; }
  /// Elements of flat blocks: rank r owns [begins()[r], begins()[r + 1]), padding included.
  std::vector<extent_t> const& begins() const { return begins_; }
  /// Of a block of which every rank holds what it owns, and all vectors if they are apart.
  block_layout owned(bool vectors_apart) const {
    auto const r = static_cast<std::size_t>(rank_);
    return {begins_[r], begins_[r + 1], vectors_apart};
  }
  /// Of a block that is whole.
  block_layout whole(bool vectors_apart) const { return {0, begins_.back(), vectors_apart}; }

 private:
  int rank_, ranks_;
  std::vector<int> owners_;
  std::vector<extent_t> begins_;
};

}  // namespace yoke
