// Collectives by MPI, on the ranks that mpirun has started: what they promise, and bit for bit what threads give.
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/mpi.hpp>
#include <yoke/parallel/threads.hpp>

#include "parallel/collectives.hpp"
#include <catch2/catch_all.hpp>
#include <cmath>
#include <cstdio>
#include <thread>

using namespace yoke;
using namespace std::chrono_literals;
using collectives::failures;
using collectives::flat;
using parallel::mpi_sums;

namespace {

parallel::mpi_session* session = nullptr;  // main's

/// Few bytes at a time, so that small tensors take the ways of large ones.
constexpr parallel::mpi_options in_small_pieces{.timeout = 20s, .piece = 40};

/// Values of which the order of a sum can be seen.
template <class T>
std::vector<T> rough(int rank, std::size_t n) {
  std::vector<T> v(n);
  for (std::size_t i = 0; i < n; ++i) {
    auto const x = std::sin(static_cast<double>(i * 7 + static_cast<std::size_t>(rank) * 1009 + 1));
    v[i] = static_cast<T>(x * std::pow(10.0, static_cast<double>((i + static_cast<std::size_t>(rank)) % 5)));
  }
  return v;
}

/// What a rank has after sums and maxima of rough values.
template <class T, class C>
std::vector<T> reduced_by(C& c, std::size_t n) {
  auto const size = static_cast<std::size_t>(c.size());
  auto sum = rough<T>(c.rank(), n), maximum = sum;
  all_reduce(c, flat(sum));
  all_reduce(c, flat(maximum), parallel::reduction::maximum);
  auto all = rough<T>(c.rank(), n * size);
  std::vector<T> part(n);
  reduce_scatter(c, flat(all), flat(part));
  auto const own = slice(flat(all), static_cast<extent_t>(n) * c.rank(), static_cast<extent_t>(n));
  reduce_scatter(c, flat(all), own);
  for (auto const& more : {maximum, part, std::vector<T>(own.data, own.data + n)})
    sum.insert(sum.end(), more.begin(), more.end());
  return sum;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
void as_threads_do(std::size_t n, failures& wrong) {
  for (auto const& options : {parallel::mpi_options{}, in_small_pieces}) {
    parallel::mpi c{*session, options};
    auto const before = c.traffic();
    auto const here = reduced_by<T>(c, n);
    auto const sent = c.traffic() - before;
    parallel::threads_group{c.size()}.run([&](parallel::threads& ranks) {
      auto const there = reduced_by<T>(ranks, n);
      if (ranks.rank() != c.rank())
        return;
      wrong.unless(same_bits(here, there), "sums and maxima");
      wrong.unless(sent.bytes == ranks.traffic().bytes && sent.calls == ranks.traffic().calls, "traffic");
    });
  }
}

}  // namespace

TEST_CASE("mpi: collectives do what they promise", "[mpi]") {
  failures wrong;
  for (auto const& options : {parallel::mpi_options{}, in_small_pieces}) {
    parallel::mpi c{*session, options};
    parallel::any any{c};
    for (auto const elements : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{1000}}) {
      collectives::on_host const host;
      collectives::hold<float>(c, elements, host, host, wrong);
      collectives::hold<double>(any, elements, host, host, wrong);
      collectives::hold<bf16>(c, elements, host, host, wrong);
      collectives::hold<bf16>(any, elements, host, host, wrong);
    }
  }
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("mpi: sums are bit for bit those of threads, and so is what is sent", "[mpi]") {
  failures wrong;
  for (auto const n : {std::size_t{1}, std::size_t{5}, std::size_t{3000}}) {
    as_threads_do<float>(n, wrong);
    as_threads_do<double>(n, wrong);
    as_threads_do<bf16>(n, wrong);
  }
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("mpi: MPI sums where that is wanted, in bf16 too", "[mpi]") {
  parallel::mpi c{*session, {.sums = mpi_sums::by_library}};
  auto const size = static_cast<float>(c.size());
  std::vector<bf16> buffer(100, bf16{static_cast<float>(c.rank() + 1)});
  all_reduce(c, flat(buffer));
  CHECK(static_cast<float>(buffer[99]) == size * (size + 1) / 2);
  buffer.assign(100, bf16{static_cast<float>(-c.rank())});
  all_reduce(c, flat(buffer), parallel::reduction::maximum);
  CHECK(static_cast<float>(buffer[99]) == 0);
  std::vector<double> all(static_cast<std::size_t>(3 * c.size()), c.rank() + 1.0);
  auto const mine = slice(flat(all), 3 * c.rank(), 3);
  reduce_scatter(c, flat(all), mine);
  CHECK(mine.data[2] == c.size() * (c.size() + 1) / 2);
  auto part = split(c, 0);
  std::vector<bf16> three(3 * static_cast<std::size_t>(c.size()), bf16{0.5f}), one(3);
  reduce_scatter(part, flat(three), flat(one));
  CHECK(static_cast<float>(one[2]) == size / 2);
}

TEST_CASE("mpi: more than is under way at a time", "[mpi]") {
  parallel::mpi c{*session};
  auto const n = (std::size_t{1} << 24) + 5;  // 64 MiB and a little
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i)
    values[i] = static_cast<float>(i % 1000 + static_cast<std::size_t>(c.rank()));
  all_reduce(c, flat(values));
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < n; ++i)
    wrong += values[i] != static_cast<float>(i % 1000 * static_cast<std::size_t>(c.size()) +
                                             static_cast<std::size_t>(c.size() * (c.size() - 1) / 2));
  CHECK(wrong == 0);
  values[n - 1] = static_cast<float>(c.rank());
  broadcast(c, flat(values), 1);
  CHECK(values[n - 1] == 1);
}

TEST_CASE("mpi: splits, which move to where they are wanted", "[mpi]") {
  parallel::mpi c{*session};
  failures wrong;
  collectives::split_holds(c, wrong);
  parallel::any any{c};
  collectives::split_holds(any, wrong);
  CHECK(wrong.what == std::vector<std::string>{});
  auto part = split(c, c.rank() % 2);
  auto moved = std::move(part);
  CHECK(moved.rank() == c.rank() / 2);
  wait_for_all(moved, 1s);
}

TEST_CASE("mpi: a mesh, of two by two where four ranks are", "[mpi]") {
  parallel::mpi c{*session};
  auto const models = c.size() % 2 == 0 ? 2 : 1;
  parallel::mesh mesh{c, {.data = c.size() / models, .model = models}};
  CHECK((mesh.model_axis() != nullptr) == (models == 2));
  std::vector<float> data{static_cast<float>(c.rank())}, model = data;
  all_reduce(mesh.data(), flat(data));
  all_reduce(mesh.model(), flat(model));
  float across = 0, along = 0;
  for (int r = 0; r < c.size(); ++r) {
    across += r % models == c.rank() % models ? static_cast<float>(r) : 0;
    along += r / models == c.rank() / models ? static_cast<float>(r) : 0;
  }
  CHECK(data[0] == across);
  CHECK(model[0] == along);
}

TEST_CASE("mpi: a thread sums on one communicator while another does on another", "[mpi]") {
  parallel::mpi c{*session};
  auto background = split(c, 0);
  std::vector<double> a(1000), b(1000);
  std::thread other{[&] {
    for (int i = 0; i < 50; ++i) {
      b.assign(1000, 1.0);
      all_reduce(background, flat(b));
    }
  }};
  for (int i = 0; i < 50; ++i) {
    a.assign(1000, 2.0);
    all_reduce(c, flat(a));
  }
  other.join();
  CHECK(a == std::vector<double>(1000, 2.0 * c.size()));
  CHECK(b == std::vector<double>(1000, 1.0 * c.size()));
}

TEST_CASE("mpi: a rank that comes late is waited for", "[mpi]") {
  parallel::mpi c{*session, {.timeout = 5s}};
  for (int late = 0; late < 2; ++late) {
    if (c.rank() == late)
      std::this_thread::sleep_for(700ms);  // longer than ranks wait before they ask who is missing
    std::vector<int> one{c.rank()};
    broadcast(c, flat(one), late);
    CHECK(one[0] == late);
  }
}

TEST_CASE("mpi: where a rendezvous would be", "[mpi]") {
  parallel::mpi c{*session};
  auto const here = environment_of(c, 1234);
  CHECK(here.rank == c.rank());
  CHECK(here.size == c.size());
  CHECK(here.local_rank == c.rank());
  CHECK(here.port == 1234);
  CHECK(!here.host.empty());
}

TEST_CASE("mpi: what is no call is refused before anybody hears of it", "[mpi]") {
  parallel::mpi c{*session};
  std::vector<float> four(4), more(static_cast<std::size_t>(4 * c.size() + 1));
  CHECK_THROWS_AS(all_gather(c, flat(four), flat(more)), precondition_error);
  CHECK_THROWS_AS(reduce_scatter(c, flat(more), flat(four)), precondition_error);
  CHECK_THROWS_AS(broadcast(c, flat(four), c.size()), precondition_error);
  CHECK_THROWS_AS(exchange(c, c.size(), flat(four), 0, flat(four)), precondition_error);
  CHECK_THROWS_AS((parallel::mpi{*session, {.timeout = 0s}}), precondition_error);
  CHECK_THROWS_AS((parallel::mpi{*session, {.piece = 0}}), precondition_error);
  barrier(c);
}

int main(int argc, char** argv) {
  parallel::mpi_session mine{argc, argv};
  session = &mine;
  auto const failed = Catch::Session().run(argc, argv);
  if (failed != 0)
    mine.give_up();  // the others may be waiting
  return failed;
}
