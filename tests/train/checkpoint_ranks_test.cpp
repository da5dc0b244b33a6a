// Checkpoints of many ranks: what one mesh saves another loads bit for bit; whichever rank fails or is killed, a whole
// checkpoint can be read.
#include <yoke/cpu/adafactor.hpp>
#include <yoke/cpu/optimizer.hpp>
#include <yoke/cpu/pointwise.hpp>
#include <yoke/cpu/statistics.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/tcp.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/checkpoint_export.hpp>

#include "io/faults.hpp"
#include "parallel/processes.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <mutex>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using names = std::vector<std::string>;

namespace {

/// Parameters of every kind of cut, and of none.
void describe(parameter_list& list) {
  scope const s{list};
  s.weight("attention.qkv", shape{48, 36}, 1, weight_decay::yes, {0, 3});
  s.constant("attention.qkv_bias", shape{48}, 0, {0, 3});
  s.weight("attention.out", shape{36, 48}, 1, weight_decay::yes, {1, 1});
  s.constant("attention.out_bias", shape{36}, 0);
  s.weight("mlp.gate", shape{40, 32}, 1, weight_decay::yes, {1, 2});
  s.weight("patch", shape{32, 33}, 1);
  s.weight("table", shape{8, 3, 5}, 1, weight_decay::no, {0, 1});
  s.weight("narrow", shape{3, 16}, 1, weight_decay::yes, {1, 1});
  s.constant("scale", shape{1}, 1);
  s.statistic("norm.mean", shape{9}, 0);
}

/// What a tensor's elements are in a step, by their places in the whole.
template <class V>
V value(std::string const& name, std::int64_t step, extent_t i) {
  auto const bits = mix(hash(name), mix(static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(i)));
  return static_cast<V>(static_cast<accumulator_t<V>>(static_cast<double>(bits >> 11) * 0x1p-53));
}

/// A rank's trainer, without a loss: what there is of it is filled by hand.
template <class C>
struct run {
  parameter_list list;
  C device{mebibytes(1), mebibytes(1)};
  train::learner<C, parallel::any> trainer;

  run(parallel::mesh<parallel::any>& m, train::optimizer_options const& o)
      : list{described({m.model().rank(), m.shape().model})},
        trainer{device, m.data(), list, {.optimizer = o, .ranks = {.model_axis = m.model_axis()}}} {}

  static parameter_list described(model_share share) {
    parameter_list list{share};
    describe(list);
    return list;
  }
  /// Calls f(place, elements) for all that is here.
  template <class F>
  void each(F const& f) {
    auto const here = [&](tensor_place const& t, int, auto values) {
      if (values.size() > 0)
        f(t, values);
    };
    train::detail::for_each_tensor(list, trainer.store(), here);
    trainer.optimizer().for_each_tensor(here);
  }
  void fill(std::int64_t step) {
    each([&]<class V>(tensor_place const& t, view<V, 1> values) {
      t.for_each_run_of_whole([&](extent_t whole, extent_t first, extent_t n) {
        for (extent_t i = 0; i < n; ++i) values.data[first + i] = value<V>(t.name, step, whole + i);
      });
    });
    trainer.resume({.step = step, .updates = step - 1, .skipped = 1, .skipped_in_a_row = step % 2});
  }
  void expect(std::int64_t step) {
    auto const& s = trainer.state();
    if (s.step != step || s.updates != step - 1 || s.skipped != 1 || s.skipped_in_a_row != step % 2)
      throw std::runtime_error("counters of step " + std::to_string(s.step));
    each([&]<class V>(tensor_place const& t, view<V, 1> values) {
      t.for_each_run_of_whole([&](extent_t whole, extent_t first, extent_t n) {
        for (extent_t i = 0; i < n; ++i)
          if (auto const wanted = value<V>(t.name, step, whole + i);
              std::memcmp(&values.data[first + i], &wanted, sizeof wanted) != 0)
            throw std::runtime_error(t.name + " is not that of step " + std::to_string(step));
      });
    });
    expect_copies(step);
  }
  /// The compute copy of every matrix, whoever owns it.
  void expect_copies(std::int64_t step) {
    using E = typename C::element;
    if constexpr (parameter_store<C>::has_copy)
      for (auto const& p : list.infos())
        p.for_each_run_of_whole([&](extent_t whole, extent_t first, extent_t n) {
          for (extent_t i = 0; p.is_matrix() && i < n; ++i) {
            auto const wanted = static_cast<E>(value<accumulator_t<E>>(p.name, step, whole + i));
            if (static_cast<float>(trainer.store().compute().data[p.offset + first + i]) !=
                static_cast<float>(wanted))
              throw std::runtime_error("the compute copy of " + p.name + " on rank " +
                                       std::to_string(trainer.ranks().rank()));
          }
        });
  }
};

/// Calls f(rank, run) on each rank of a mesh of threads.
template <class C, class F>
void on(parallel::mesh_shape s, train::optimizer_options const& o, F const& f) {
  parallel::threads_group group{s.ranks()};
  group.run([&](parallel::threads& threads) {
    parallel::any all{threads};
    parallel::mesh mesh{all, s};
    run<C> r{mesh, o};
    f(threads.rank(), r);
  });
}

/// The sentence with which each rank leaves.
class sentences {
 public:
  template <class F>
  void of(int rank, F const& f) {
    try {
      f();
    } catch (io::error const& e) {
      std::lock_guard const lock{mutex_};
      all_[rank] = e.what();
    }
  }
  std::map<int, std::string> const& all() const { return all_; }

 private:
  std::mutex mutex_;
  std::map<int, std::string> all_;
};

io::json number(int n) {
  io::json run;
  run["number"] = n;
  return run;
}

constexpr parallel::mesh_shape one{1, 1}, data_4{4, 1}, square{2, 2};
using wide = cpu::context<double>;
using narrow = cpu::context<bf16>;
train::optimizer_options const adam_w = optim::adam_w_options{}, adafactor_w = optim::adafactor_w_options{};

}  // namespace

TEST_CASE("what one mesh saves any other loads bit for bit, and exports are the same", "[train][ranks]") {
  auto const check = []<class C>(C*, train::optimizer_options const& o) {
    scratch_folder const folder{"/dev/shm"};
    auto const path = folder / "checkpoint";
    std::map<std::int64_t, std::string> exported;
    std::int64_t step = 0;
    auto const save = [&](parallel::mesh_shape s) {
      on<C>(s, o, [&](int rank, run<C>& r) {
        if (step > 0) {
          train::load_checkpoint(path, r.trainer);
          r.expect(step);
        }
        r.fill(step + 1);
        train::save_checkpoint(path, r.trainer, number(rank), {{"note", std::to_string(rank)}});
        r.expect(step + 1);
      });
      ++step;
    };
    for (auto const s : {data_4, square, one, parallel::mesh_shape{1, 4}, {3, 1}, square, data_4}) {
      INFO(s.data << " x " << s.model);
      save(s);
      auto const several = s.ranks() > 1;
      auto files = names{"note", "state.json"};
      for (std::size_t i = 0; i < static_cast<std::size_t>(s.ranks()); ++i)
        for (auto const* const kind : {"model", "optimizer"})
          files.push_back(train::part_name(kind, i, static_cast<std::size_t>(s.ranks())));
      auto there = io::detail::names_in(path);
      std::sort(files.begin(), files.end()), std::sort(there.begin(), there.end());
      CHECK(there == files);
      CHECK(folder.names() == names{"checkpoint"});
      CHECK(io::read_file(path + "/note") == "0");
      CHECK(train::checkpoint_manifest{path}.state().find("format")->as<int>() == (several ? 2 : 1));
      CHECK(train::read_run(path).find("number")->as<int>() == 0);
      auto const runs = train::read_runs(path);
      REQUIRE(std::ssize(runs) == s.data);
      for (int d = 0; d < s.data; ++d)
        CHECK(runs[static_cast<std::size_t>(d)].find("number")->as<int>() == d * s.model);

      on<C>(one, o, [&](int, run<C>& r) {  // the same step from one rank
        train::load_checkpoint(path, r.trainer);
        r.expect(step);
        train::save_checkpoint(folder / "alone", r.trainer, {});
      });
      train::export_model(path, folder / "from_parts");
      train::export_model(folder / "alone", folder / "from_one");
      CHECK(io::read_file(folder / "from_parts") == io::read_file(folder / "from_one"));
      for (auto const* const name : {"from_parts", "from_one", "alone"})
        io::detail::remove_tree(folder / name);
    }
  };
  check(static_cast<wide*>(nullptr), adam_w);
  check(static_cast<wide*>(nullptr), adafactor_w);
  check(static_cast<narrow*>(nullptr), adam_w);
  check(static_cast<narrow*>(nullptr), adafactor_w);
}

TEST_CASE("every rank reads the parameters that it holds, and the compute copies of all", "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  auto const path = folder / "checkpoint";
  on<narrow>(square, adam_w, [&](int, run<narrow>& r) {
    r.fill(5);
    train::save_checkpoint(path, r.trainer, {});
  });
  for (auto const s : {square, data_4, one, parallel::mesh_shape{1, 2}})
    on<narrow>(s, adam_w, [&](int, run<narrow>& r) {
      train::load_parameters(path, r.device, r.list, r.trainer.store());
      r.expect_copies(5);
      r.trainer.resume({});  // all ranks have the same
      r.expect_copies(5);
    });
  sentences said;
  on<narrow>(square, adam_w, [&](int rank, run<narrow>& r) {
    said.of(rank, [&] { train::load_parameters(path, r.device, r.list, r.trainer.store(), "nothing."); });
  });
  CHECK(said.all().size() == 4);
}

TEST_CASE("a rank that cannot write leaves the old checkpoint, and every rank says which", "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  auto const path = folder / "checkpoint";
  on<wide>(square, adam_w, [&](int, run<wide>& r) {
    r.fill(3);
    train::save_checkpoint(path, r.trainer, {});
  });
  auto const bad = 2;
  sentences said;
  on<wide>(square, adam_w, [&](int rank, run<wide>& r) {
    r.fill(4);
    said.of(rank, [&] {
      train::save_checkpoint(path, r.trainer, {}, {}, [&](auto const&) {
        if (rank == bad)
          throw io::error("the disk", "", "is full");
      });
    });
    said.of(rank + 4, [&] { train::save_checkpoint(path, r.trainer, {}, {{"not/a/name", "x"}}); });
  });
  CHECK(said.all().size() == 8);
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(said.all().at(rank) == path + ": rank 2: the disk: is full");
    CHECK_THAT(said.all().at(rank + 4),
               ContainsSubstring(path + ": rank 0: ") && ContainsSubstring("a name, not a path"));
  }
  CHECK(folder.names() == names{"checkpoint"});
  on<wide>(one, adam_w, [&](int, run<wide>& r) {
    train::load_checkpoint(path, r.trainer);
    r.expect(3);
  });
}

TEST_CASE("a disk that is full on all ranks leaves the old checkpoint", "[train]") {
  scratch_folder const folder{"/dev/shm"};
  auto const path = folder / "checkpoint";
  auto const save = [&](std::int64_t step) {
    on<wide>(square, adam_w, [&](int, run<wide>& r) {
      r.fill(step);
      train::save_checkpoint(path, r.trainer, {});
    });
  };
  save(1);
  CHECK_THAT(failure_in_child([&] {
               limit_file_size(4'000);
               save(2);
             }),
             ContainsSubstring(path + ": rank 0: ") &&
                 ContainsSubstring("model-00001-of-00004.safetensors: cannot write: File too large"));
  CHECK(folder.names() == names{"checkpoint"});
  on<wide>(one, adam_w, [&](int, run<wide>& r) {
    train::load_checkpoint(path, r.trainer);
    r.expect(1);
  });
}

TEST_CASE("a rank that does not see the folder says that all have to", "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  std::atomic<bool> apart = false;
  sentences said;
  on<wide>({2, 1}, adam_w, [&](int rank, run<wide>& r) {
    if (rank == 1)
      apart = mount_small(folder.path(), "1M");  // this thread's view alone
    barrier(r.trainer.ranks());
    if (apart)
      said.of(rank, [&] { train::save_checkpoint(folder / "checkpoint", r.trainer, {}); });
  });
  if (!apart) {
    WARN("not tried: this machine does not let a test mount");
    return;
  }
  CHECK(folder.names().empty());
  for (int rank = 0; rank < 2; ++rank) {
    CHECK_THAT(said.all().at(rank), ContainsSubstring(folder / "checkpoint: rank 1: ") &&
                                        ContainsSubstring("this rank does not see the folder"));
  }
}

TEST_CASE("parts that do not belong together are refused by every rank before anything changes",
          "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  auto const path = folder / "checkpoint", earlier = folder / "earlier";
  auto const part = [&](std::string const& in, char const* kind) {
    return in + "/" + train::part_name(kind, 1, 4);
  };
  on<wide>(square, adam_w, [&](int, run<wide>& r) {
    r.fill(1);
    train::save_checkpoint(earlier, r.trainer, {});
    r.fill(2);
    train::save_checkpoint(path, r.trainer, {});
  });
  std::string rule;
  auto optimizer = adam_w;
  SECTION("a part that is missing") {
    io::detail::remove_tree(part(path, "model"));
    rule = "model-00002-of-00004.safetensors: cannot open: No such file or directory";
  }
  SECTION("a part that was cut short") {
    REQUIRE(::truncate(part(path, "optimizer").c_str(), 3000) == 0);
    rule = "optimizer-00002-of-00004.safetensors: has ";
  }
  SECTION("a part of an earlier step") {
    io::write_file_atomically(part(path, "optimizer"), io::read_file(part(earlier, "optimizer")));
    rule = "the part is of another checkpoint";
  }
  SECTION("another optimiser") {
    optimizer = adafactor_w;
    rule = "state.json: optimizer: is adamw; the run that would go on has adafactorw";
  }
  sentences said;
  on<wide>(square, optimizer, [&](int rank, run<wide>& r) {
    r.fill(7);
    said.of(rank, [&] { train::load_checkpoint(path, r.trainer); });
    r.expect(7);
  });
  for (int rank = 0; rank < 4; ++rank)
    CHECK_THAT(said.all().at(rank), ContainsSubstring(path + ": rank 0: ") && ContainsSubstring(rule));
}

TEST_CASE("ranks that find different checkpoints do not go on", "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  sentences said;
  on<wide>({2, 1}, adam_w, [&](int rank, run<wide>& r) {
    for (auto const step : {1, 2}) {
      r.fill(step);
      train::save_checkpoint(folder / std::to_string(step), r.trainer, {});
    }
    said.of(rank, [&] { train::load_checkpoint(folder / std::to_string(1 + rank), r.trainer); });
    r.expect(2);
  });
  for (int rank = 0; rank < 2; ++rank)
    CHECK_THAT(said.all().at(rank),
               ContainsSubstring("rank 1: finds step 2 ") && ContainsSubstring("where rank 0 finds step 1 "));
}

TEST_CASE("ranks wait longer for a part that is written than in a collective", "[train][ranks]") {
  scratch_folder const folder{"/dev/shm"};
  auto const port = processes::free_port();
  std::vector<std::string> said(2);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      try {
        parallel::rendezvous meeting{processes::local(rank, 2, port), {}};
        parallel::tcp sockets{meeting, {.timeout = std::chrono::milliseconds{300}}};
        parallel::any all{sockets};
        parallel::mesh mesh{all, {2, 1}};
        run<wide> r{mesh, adam_w};
        train::save_checkpoint(folder / "checkpoint", r.trainer, {}, {}, [&](auto const&) {
          std::this_thread::sleep_for(std::chrono::milliseconds{rank * 500});
        });
      } catch (std::exception const& e) {
        said[static_cast<std::size_t>(rank)] = e.what();
      }
    });
  for (auto& r : ranks) r.join();
  CHECK(said == std::vector<std::string>(2));
  CHECK(io::detail::names_in(folder / "checkpoint").size() == 5);
}

TEST_CASE("a rank killed at any moment leaves a whole checkpoint", "[train]") {
  scratch_folder const folder{"/dev/shm"};
  auto const path = folder / "checkpoint";
  std::minstd_rand random{std::random_device{}()};
  std::int64_t last = 0;
  int saves = 0, abandoned = 0;
  for (int kill = 0; kill < 50; ++kill) {
    auto const port = processes::free_port();
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    std::vector<pid_t> ranks;
    for (int rank = 0; rank < 4; ++rank) {
      auto const process = ::fork();
      if (process == 0) {
        // A thread of its own has no use for the parent's OpenMP threads, which are not here.
        std::thread{[&] {
          try {
            parallel::rendezvous meeting{processes::local(rank, 4, port), {}};
            parallel::tcp sockets{meeting};
            parallel::any all{sockets};
            parallel::mesh mesh{all, square};
            run<wide> r{mesh, adam_w};
            if (last > 0)
              train::load_checkpoint(path, r.trainer);
            for (auto step = last + 1;; ++step) {
              r.fill(step);
              if (rank == 0 && ::write(ends[1], "s", 1) != 1)
                return;
              train::save_checkpoint(path, r.trainer, {});
            }
          } catch (parallel::error const&) {
            ::_exit(1);  // as it should be
          } catch (...) {
          }
        }}.join();
        ::_exit(2);
      }
      ranks.push_back(process);
    }
    char begun = 0;
    REQUIRE(::read(ends[0], &begun, 1) == 1);
    ::usleep(static_cast<useconds_t>(random() % 40'000));
    auto const victim = ranks[random() % 4];
    ::kill(victim, SIGKILL);
    for (auto const process : ranks) {
      int status = 0;
      ::waitpid(process, &status, 0);
      if (process == victim)
        CHECK(WIFSIGNALED(status));
      else
        CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 1));
    }
    ::close(ends[0]), ::close(ends[1]);
    abandoned += folder.names().size() > 1 ? 1 : 0;
    if (last == 0 && !io::detail::is_folder(path))
      continue;  // killed in its first save
    auto step = last;
    on<wide>(one, adam_w, [&](int, run<wide>& r) {
      train::load_checkpoint(path, r.trainer);
      step = r.trainer.state().step;
      r.expect(step);
    });
    REQUIRE(step >= last);
    saves += static_cast<int>(step - std::exchange(last, step));
  }
  INFO(saves << " saves, " << abandoned << " folders left by the killed");
  CHECK(saves > 20);
  on<wide>(one, adam_w, [&](int, run<wide>& r) { train::save_checkpoint(path, r.trainer, {}); });
  CHECK(folder.names() == names{"checkpoint"});
}
