// Processes that meet: all of them, or each learns who is missing or differs. Peers that die, and strangers.
#include <yoke/parallel/rendezvous.hpp>

#include "parallel/processes.hpp"
#include <catch2/catch_all.hpp>
#include <cstdlib>
#include <map>
#include <signal.h>
#include <sys/syscall.h>

using namespace yoke;
using namespace yoke::parallel;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;
using processes::free_port;
using processes::local;

namespace {

/// The variables of a rank; restored to none at the end.
class variables {
 public:
  explicit variables(std::map<std::string, std::string> const& values) {
    clear();
    for (auto const& [name, value] : values) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~variables() { clear(); }

 private:
  static void clear() {
    for (auto const* name : {"RANK",
                             "WORLD_SIZE",
                             "LOCAL_RANK",
                             "MASTER_ADDR",
                             "MASTER_PORT",
                             "YOKE_PORT",
                             "TORCHELASTIC_USE_AGENT_STORE",
                             "SLURM_PROCID",
                             "SLURM_NTASKS",
                             "SLURM_STEP_NUM_TASKS",
                             "SLURM_LOCALID",
                             "SLURM_STEP_ID",
                             "SLURM_STEPID",
                             "SLURM_JOB_ID",
                             "SLURM_JOBID",
                             "SLURM_STEP_NODELIST",
                             "SLURM_NODELIST",
                             "SLURM_JOB_NODELIST",
                             "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK",
                             "PMI_RANK",
                             "PMI_SIZE",
                             "MPI_LOCALRANKID"})
      ::unsetenv(name);
  }
};

std::map<std::string, std::string> rank_2_of_4() {
  return {{"RANK", "2"},
          {"WORLD_SIZE", "4"},
          {"LOCAL_RANK", "1"},
          {"MASTER_ADDR", "n7"},
          {"MASTER_PORT", "29500"}};
}

/// What read_environment says of `name` with this value.
std::string refusal(std::string const& name, std::string const& value) {
  auto with = rank_2_of_4();
  with[name] = value;
  variables const set{with};
  try {
    read_environment();
  } catch (parallel::error const& e) {
    return e.what();
  }
  return "taken";
}

/// Polls until it throws; "peace" when it does not for a while.
std::string fate(rendezvous const& meeting, std::chrono::milliseconds patience = 5s) {
  auto const until = std::chrono::steady_clock::now() + patience;
  try {
    while (std::chrono::steady_clock::now() < until) {
      meeting.poll();
      std::this_thread::sleep_for(1ms);
    }
  } catch (parallel::error const& e) {
    return e.what();
  }
  return "peace";
}

/// Connects to a local port, once somebody listens there.
parallel::detail::endpoint stranger(int port) {
  std::string problem;
  auto const until = std::chrono::steady_clock::now() + 5s;
  while (std::chrono::steady_clock::now() < until) {
    auto e =
        parallel::detail::connect_to(parallel::detail::resolve("localhost", port, problem), until, problem);
    if (e)
      return e;
    std::this_thread::sleep_for(1ms);
  }
  throw std::runtime_error(problem);
}

}  // namespace

TEST_CASE("a rank reads what torchrun says", "[parallel][rendezvous]") {
  auto given = rank_2_of_4();
  {
    variables const set{given};
    auto const here = read_environment();
    CHECK(here.rank == 2);
    CHECK(here.size == 4);
    CHECK(here.local_rank == 1);
    CHECK(here.host == "n7");
    CHECK(here.port == 29500);
  }
  given["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  CHECK((variables{given}, read_environment().port) == 29500);
  given["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  CHECK((variables{given}, read_environment().port) == 29501);
  given["YOKE_PORT"] = "4000";
  CHECK((variables{given}, read_environment().port) == 4000);
}

TEST_CASE("a rank says which variable is wrong", "[parallel][rendezvous]") {
  for (auto const* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"})
    CHECK_THAT(refusal(name, ""),
               StartsWith(std::string(name) + " is not set: start the program with torchrun"));
  CHECK(refusal("RANK", "two") == "RANK is \"two\": it must be a number");
  CHECK(refusal("RANK", "2x") == "RANK is \"2x\": it must be a number");
  CHECK(refusal("RANK", " 2") == "RANK is \" 2\": it must be a number");
  CHECK(refusal("RANK", "-1") == "RANK is -1: it must be 0 to 1048576");
  CHECK(refusal("RANK", "4") == "RANK is 4: WORLD_SIZE is 4, so it must be below that");
  CHECK(refusal("LOCAL_RANK", "4") == "LOCAL_RANK is 4: WORLD_SIZE is 4, so it must be below that");
  CHECK(refusal("WORLD_SIZE", "0") == "WORLD_SIZE is 0: it must be 1 to 1048576");
  CHECK(refusal("WORLD_SIZE", "99999999999999") == "WORLD_SIZE is 99999999999999: it must be 1 to 1048576");
  CHECK(refusal("MASTER_PORT", "65536") == "MASTER_PORT is 65536: it must be 1 to 65535");
  CHECK(refusal("YOKE_PORT", "none") == "YOKE_PORT is \"none\": it must be a number");
}

namespace {

/// "rank/size local host:port", "alone", or what is wrong.
std::string found(std::map<std::string, std::string> const& given) {
  variables const set{given};
  try {
    auto const here = find_environment();
    return here ? std::to_string(here->rank) + "/" + std::to_string(here->size) + " " +
                      std::to_string(here->local_rank) + " " + here->host + ":" + std::to_string(here->port)
                : "alone";
  } catch (parallel::error const& e) {
    return e.what();
  }
}

std::map<std::string, std::string> with(std::map<std::string, std::string> a,
                                        std::map<std::string, std::string> const& more) {
  for (auto const& [name, value] : more) a[name] = value;
  return a;
}

}  // namespace

TEST_CASE("a rank finds out which launcher started it", "[parallel][rendezvous]") {
  CHECK(found({}) == "alone");
  CHECK(found(rank_2_of_4()) == "2/4 1 n7:29500");
  CHECK(found(with(rank_2_of_4(), {{"OMPI_COMM_WORLD_SIZE", "9"}, {"SLURM_PROCID", "5"}})) ==
        "2/4 1 n7:29500");
  CHECK(found({{"RANK", "0"}}) == refusal("WORLD_SIZE", ""));
  CHECK(found({{"MASTER_ADDR", "n7"}, {"MASTER_PORT", "1"}}) == "alone");

  std::map<std::string, std::string> const slurm{{"SLURM_PROCID", "3"},
                                                 {"SLURM_STEP_NUM_TASKS", "6"},
                                                 {"SLURM_NTASKS", "8"},
                                                 {"SLURM_LOCALID", "1"},
                                                 {"SLURM_STEP_ID", "2"},
                                                 {"SLURM_JOB_ID", "1234567"},
                                                 {"SLURM_STEP_NODELIST", "node[03-05,7]"},
                                                 {"SLURM_NODELIST", "node[01-07]"}};
  CHECK(found(slurm) == "3/6 1 node03:24569");
  CHECK(found(with(slurm, {{"YOKE_PORT", "77"}, {"MASTER_PORT", "78"}})) == "3/6 1 node03:77");
  CHECK(found(with(slurm, {{"MASTER_PORT", "78"}, {"MASTER_ADDR", "n7"}})) == "3/6 1 n7:78");
  CHECK(found(with(slurm, {{"SLURM_STEP_NODELIST", ""}})) == "3/6 1 node01:24569");
  CHECK(found(with(slurm, {{"SLURM_STEP_NUM_TASKS", ""}})) == "3/8 1 node03:24569");
  CHECK(found(with(slurm, {{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}})) ==
        "alone");
  CHECK(found(with(slurm, {{"SLURM_STEP_ID", ""}})) == "alone");  // a batch script, which is one process
  CHECK(found(with(slurm, {{"SLURM_PROCID", "6"}})) ==
        "SLURM_PROCID is 6: SLURM_STEP_NUM_TASKS is 6, so it must be below that");
  CHECK(found(with(slurm, {{"SLURM_STEP_NODELIST", ""}, {"SLURM_NODELIST", ""}})) ==
        "SLURM_STEP_NODELIST is not set, nor is MASTER_ADDR: ranks that Slurm starts cannot find rank 0");
  auto const host = [&](std::string const& list) {
    auto const text = found(with(slurm, {{"SLURM_STEP_NODELIST", list}}));
    return text.starts_with("3/6 1 ") ? text.substr(6, text.find(':') - 6) : text;
  };
  CHECK(host("alpha") == "alpha");
  CHECK(host("alpha,beta[1-3]") == "alpha");
  CHECK(host("n[12]") == "n12");
  CHECK(host("n[007,9]") == "n007");
  CHECK(host("rack[01-03]-node[02-2,5].local,x") == "rack01-node02.local");
  for (std::string const bad : {"n[1-3", "n[]", "[", "n]1", ",", "n[-3]"})
    CHECK(host(bad) ==
          "SLURM_STEP_NODELIST is \"" + bad + "\": it must be a list of hosts such as node[03-05,7]");

  std::map<std::string, std::string> const ompi{
      {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
  CHECK(found(ompi) == "alone");
  CHECK((variables{ompi}, ranks_of_mpi_launcher()) == 4);
  CHECK((variables{{}}, ranks_of_mpi_launcher()) == 1);
  CHECK(found(with(ompi, {{"YOKE_PORT", "77"}})) == "1/4 1 localhost:77");
  CHECK(found(with(ompi, {{"MASTER_ADDR", "n7"}, {"MASTER_PORT", "78"}})) == "1/4 1 n7:78");
  CHECK(found(with(ompi, {{"MASTER_ADDR", "n7"}})) == "1/4 1 n7:29500");
  // Under Slurm, mpirun's processes have the variables of its daemons.
  CHECK(found(with(ompi, {{"SLURM_PROCID", "0"},
                          {"SLURM_STEP_NUM_TASKS", "2"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_STEP_NODELIST", "b"},
                          {"SLURM_JOB_ID", "5"},
                          {"SLURM_JOB_NODELIST", "a,b"}})) == "1/4 1 a:20005");
  CHECK(found(with(ompi, {{"YOKE_PORT", "77"}, {"OMPI_COMM_WORLD_RANK", ""}})) ==
        "OMPI_COMM_WORLD_RANK is not set, although OMPI_COMM_WORLD_SIZE is");
  CHECK(found({{"PMI_RANK", "2"}, {"PMI_SIZE", "3"}, {"YOKE_PORT", "77"}}) == "2/3 0 localhost:77");
  CHECK(found({{"PMI_RANK", "2"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "2"}, {"YOKE_PORT", "77"}}) ==
        "2/3 2 localhost:77");
  CHECK(found({{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}, {"YOKE_PORT", "77"}}) == "alone");
}

TEST_CASE("one rank alone meets nobody", "[parallel][rendezvous]") {
  rendezvous meeting{launch_environment{.host = "nowhere.invalid"}};
  std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  meeting.broadcast_bytes(bytes);
  meeting.poll();
  meeting.announce("nobody hears this");
  CHECK(bytes[2] == std::byte{3});
  CHECK_THROWS_AS(rendezvous({.rank = 1, .size = 1}), precondition_error);
}

TEST_CASE("ranks meet in any order, and rank 0's bytes reach all", "[parallel][rendezvous]") {
  auto const n = GENERATE(2, 3, 7);
  auto const first = GENERATE(0, 1);
  auto const host =
      GENERATE(std::string("localhost"), std::string("127.0.0.1"), std::string("::1"), std::string());
  auto const port = free_port();
  auto const said = processes::run(n, [&](int rank) {
    if (rank != first)
      std::this_thread::sleep_for(60ms);
    auto here = local(rank, n, port);
    here.host = host;
    std::string problem;
    if (char name[256]; host.empty() && ::gethostname(name, sizeof name) == 0)
      here.host = name;
    if (parallel::detail::resolve(here.host, port, problem)
            .empty())           // a machine that does not know its own name,
      here.host = "localhost";  // or no IPv6
    rendezvous meeting{here, {.timeout = 10s}};
    std::string heard;
    for (int round = 0; round < 3; ++round) {
      std::array<std::byte, 128> bytes{};
      if (rank == 0)
        bytes.fill(static_cast<std::byte>('a' + round));
      meeting.broadcast_bytes(bytes);
      heard += static_cast<char>(bytes[0]);
      heard += static_cast<char>(bytes[127]);
    }
    std::vector<std::byte> none;
    meeting.broadcast_bytes(none);
    meeting.poll();
    return heard + " " + std::to_string(meeting.rank()) + "/" + std::to_string(meeting.size());
  });
  for (int r = 0; r < n; ++r)
    CHECK(said[static_cast<std::size_t>(r)] == "aabbcc " + std::to_string(r) + "/" + std::to_string(n));
}

TEST_CASE("ranks that never come are named on all that came", "[parallel][rendezvous]") {
  auto const port = free_port();
  auto const where = "rendezvous at localhost:" + std::to_string(port) + ": ";
  auto const meet = [&](int rank, int size) {
    rendezvous{local(rank, size, port), {.timeout = 300ms}};
    return std::string("met");
  };
  auto const only_two = processes::run(2, [&](int rank) { return meet(rank == 0 ? 0 : 3, 6); });
  for (auto const& s : only_two) CHECK(s == where + "ranks 1, 2, 4, 5 of 6 are missing after 0.3 s");
  auto const one_died = processes::run(3, [&](int rank) -> std::string {
    if (rank == 1)
      std::this_thread::sleep_for(100ms);  // comes when rank 2 has died
    if (rank != 2)
      return meet(rank, 3);
    auto const link = stranger(port);
    auto const hello = bytes_of(parallel::detail::hello{parallel::detail::this_version, 2, 3, 0});
    parallel::detail::send_all(link, hello, std::chrono::steady_clock::now());
    parallel::detail::wait_for(link, POLLIN, std::chrono::steady_clock::now() + 5s);  // welcome, and gone
    return {};
  });
  CHECK(one_died[0] == where + "rank 2 of 3 is missing after 0.3 s");
  CHECK(one_died[1] == one_died[0]);
  CHECK_THAT(
      processes::run(1, [&](int) { return meet(1, 2); })[0],
      StartsWith("rank 1 has not found rank 0 at localhost:" + std::to_string(port) + " after 0.3 s: "));
}

TEST_CASE("ranks that differ are named on all", "[parallel][rendezvous]") {
  auto const port = free_port();
  auto const all = [&](int n, auto const& who, auto const& configuration) {
    return processes::run(n, [&](int i) {
      rendezvous{who(i), {.timeout = 2s, .configuration = configuration(i)}};
      return std::string("met");
    });
  };
  auto const same = [](int) { return std::uint64_t{7}; };
  auto const each_says = [](std::vector<std::string> const& said, std::string const& what) {
    for (auto const& s : said) {
      CHECK_THAT(s, StartsWith("rendezvous at localhost:"));
      CHECK_THAT(s, ContainsSubstring(what));
    }
  };
  each_says(
      all(
          3, [&](int i) { return local(i, 3, port); }, [](int i) { return std::uint64_t{i == 2 ? 8u : 7u}; }),
      "rank 2 has another configuration than rank 0");
  each_says(all(
                3, [&](int i) { return local(i, i == 1 ? 4 : 3, port); }, same),
            "is one of 4 ranks, rank 0 one of 3");
  each_says(all(
                3, [&](int i) { return local(i, i == 1 ? 2 : 3, port); }, same),
            "is one of 2 ranks, rank 0 one of 3");
  each_says(all(
                3, [&](int i) { return local(i == 0 ? 0 : 1, 3, port); }, same),
            "two processes say that they are rank 1");
}

TEST_CASE("a configuration's hash tells texts apart", "[parallel][rendezvous]") {
  static_assert(configuration_hash("") == 0xcbf29ce484222325);
  static_assert(configuration_hash("a") == 0xaf63dc4c8601ec8c);  // FNV-1a's published value
  CHECK(configuration_hash("batch 64") != configuration_hash("batch 65"));
}

TEST_CASE("a port that is taken is an error", "[parallel][rendezvous]") {
  auto const port = free_port();
  auto const taken = parallel::detail::listen_at("localhost", port);
  CHECK_THROWS_WITH(
      (rendezvous{local(0, 2, port), {.timeout = 100ms}}),
      StartsWith("rank 0 cannot listen at port " + std::to_string(port)) && ContainsSubstring("YOKE_PORT"));
  CHECK_THROWS_WITH((rendezvous{local(1, 2, port), {.timeout = 100ms}}),  // what listens there says nothing
                    StartsWith("rank 1 has not found rank 0") && ContainsSubstring("it said nothing"));
  CHECK_THROWS_AS((rendezvous{{.rank = 1, .size = 2, .host = "nowhere.invalid"}, {.timeout = 100ms}}),
                  parallel::error);
}

TEST_CASE("strangers are refused and harm nobody", "[parallel][rendezvous]") {
  auto const port = free_port();
  std::string const hello = bytes_of(parallel::detail::hello{parallel::detail::this_version, 1, 2, 0});
  std::vector<std::string> const words{"GET / HTTP/1.1\r\n\r\n",
                                       std::string(100'000, '\0'),
                                       std::string(100'000, '\xff'),
                                       "\x89",
                                       hello.substr(0, 8) + "never the rest",
                                       hello.substr(0, 27),
                                       ""};
  std::string said;
  std::thread rank_0{[&] {
    try {
      rendezvous meeting{local(0, 2, port), {.timeout = 10s}};
      std::array<std::byte, 1> one{std::byte{5}};
      meeting.broadcast_bytes(one);
      said = fate(meeting, 200ms);
    } catch (parallel::error const& e) {
      said = e.what();
    }
  }};
  std::vector<parallel::detail::endpoint> open;
  for (auto const& w : words) {
    open.push_back(stranger(port));
    parallel::detail::send_all(open.back(), w, std::chrono::steady_clock::now() + 1s);
  }
  std::string problem, answer;
  CHECK(parallel::detail::wait_for(open[0], POLLIN, std::chrono::steady_clock::now() + 5s));
  CHECK_FALSE(receive(open[0], answer, problem));  // closed, without an answer
  CHECK(answer.empty());
  {
    rendezvous meeting{local(1, 2, port), {.timeout = 10s}};
    std::array<std::byte, 1> one{};
    meeting.broadcast_bytes(one);
    CHECK(one[0] == std::byte{5});
    CHECK(fate(meeting, 100ms) == "peace");
  }
  rank_0.join();
  CHECK(said == "peace");
}

TEST_CASE("whoever greets as a rank and then speaks otherwise is gone", "[parallel][rendezvous]") {
  auto const n = GENERATE(as<std::string>{}, "what is a message?", std::string(100, '\0'),
                          bytes_of(parallel::detail::message{parallel::detail::kind::data, 0, "mine"}),
                          bytes_of(parallel::detail::message{parallel::detail::kind::accepted, 0, ""}),
                          std::string("\2\0\0\0\1\0\0\0\xff\xff\xff\xff", 12));
  auto const port = free_port();
  std::string said;
  std::thread rank_0{[&] { said = fate(rendezvous{local(0, 2, port), {.timeout = 10s}}); }};
  auto const link = parallel::detail::visitor{local(1, 2, port), 0}.enter(10s);
  parallel::detail::send_all(link.at, n, std::chrono::steady_clock::now() + 1s);
  rank_0.join();
  CHECK_THAT(said, StartsWith("rank 1 is gone: it sent "));
}

TEST_CASE("messages survive being cut anywhere", "[parallel][rendezvous]") {
  using namespace parallel::detail;
  message const sent{kind::failure, 3, "the disk is full"};
  auto const bytes = bytes_of(sent) + bytes_of(hello{1, 2, 3, 0x0123456789abcdef});
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    auto in = bytes.substr(0, cut);
    auto m = take_message(in);
    in += bytes.substr(cut);
    if (!m)
      m = take_message(in);
    REQUIRE(m);
    CHECK(m->body == sent.body);
    auto const h = take_hello(in);
    REQUIRE(h);
    CHECK((h->version == 1 && h->rank == 2 && h->size == 3 && h->configuration == 0x0123456789abcdef));
    CHECK(in.empty());
  }
  CHECK(printable("a\nb\x1b[31m\x7f") == "a b [31m ");
  CHECK(printable(std::string(5000, 'x')).size() == 1000);
}

TEST_CASE("when a rank dies, all others learn which within a second", "[parallel][rendezvous]") {
  auto const n = GENERATE(2, 4);
  auto const bad = GENERATE_COPY(range(0, n));
  auto const way =
      GENERATE(std::string("killed"), std::string("exits"), std::string("throws"), std::string("announces"));
  auto const port = free_port();
  auto const said = processes::run(n, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, n, port), {.timeout = 10s}};
    if (rank != bad) {
      auto const since = std::chrono::steady_clock::now();
      auto const sentence = fate(meeting);
      auto const late = std::chrono::steady_clock::now() - since > 1s;
      return sentence + (late ? ", late" : "") +
             (fate(meeting) == sentence ? "" : ", and another fate later");
    }
    std::this_thread::sleep_for(50ms);
    if (way == "killed")
      ::kill(::getpid(), SIGKILL);
    if (way == "exits")
      ::syscall(SYS_exit_group, 0);  // _exit, but the thread sanitizer makes that wait for a second
    if (way == "throws")
      throw std::runtime_error("the disk is full");
    meeting.announce("the disk\nis full");
    meeting.announce("a second reason");
    return {};
  });
  std::string const why = way == "announces" ? "the disk is full"
                          : way == "throws"  ? "it left with an exception"
                                             : "its connection ";
  for (int r = 0; r < n; ++r)
    if (r != bad) {
      INFO("rank " << r << " of " << n << ", " << bad << " " << way);
      CHECK_THAT(said[static_cast<std::size_t>(r)],
                 StartsWith("rank " + std::to_string(bad) + " is gone: " + why));
      CHECK_THAT(said[static_cast<std::size_t>(r)], !ContainsSubstring(","));
    }
}

TEST_CASE("what each rank gives reaches all, with the address of each", "[parallel][rendezvous]") {
  auto const port = free_port();
  auto const said = processes::run(4, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 4, port), {.timeout = 10s}};
    std::string heard;
    for (std::size_t const much : {0u, 1u, 50'000u}) {  // four of the last are more than a message holds
      auto const all = meeting.gather(std::string(much, static_cast<char>('a' + rank)), 5s);
      for (std::size_t r = 0; r < all.size(); ++r)
        if (all[r].card != std::string(much, static_cast<char>('a' + r)) ||
            !parallel::detail::is_loopback(all[r].at))
          return "rank " + std::to_string(r) + " gave something else";
      heard += std::to_string(all.size());
    }
    if (rank != 3)
      meeting.gather("more", 200ms);
    else
      std::this_thread::sleep_for(500ms);
    return heard;
  });
  CHECK(said[0] == "rank 0 gathers what all ranks give: of 3 nothing has come for 0.2 s");
  for (auto const r : {1u, 2u}) CHECK(said[r] == "rank 0 is gone: it left with an exception");
  CHECK(said[3] == "444");
}

TEST_CASE("ranks that are apart find each other by the addresses that rank 0 saw", "[parallel][rendezvous]") {
  using namespace parallel::detail;
  std::string problem;
  auto const at = [&](std::string const& host) { return resolve(host, 4123, problem).at(0); };
  std::vector<contact> const seen{{{}, "zero"},
                                  {at("::ffff:10.0.0.7"), "one"},
                                  {at("127.0.0.1"), "two"},
                                  {at("2001:db8::5"), "three"},
                                  {at("10.0.0.9"), ""}};
  auto const read = [&](std::string const& rank_0) {
    std::string text;
    for (auto const& c : take_contacts(bytes_of(seen), 5, at(rank_0)))
      text += text_of(with_port(c.at, 5)) + " " + c.card + "; ";
    return text;
  };
  CHECK(read("10.0.0.1") ==
        "10.0.0.1 port 5 zero; 10.0.0.7 port 5 one; 10.0.0.1 port 5 two; 2001:db8::5 port 5 three; 10.0.0.9 "
        "port 5 "
        "; ");
  CHECK(
      read("::1") ==
      "127.0.0.1 port 5 zero; 10.0.0.7 port 5 one; 127.0.0.1 port 5 two; 2001:db8::5 port 5 three; 10.0.0.9 "
      "port 5 ; ");
  auto const bytes = bytes_of(seen);
  for (std::size_t cut = 0; cut < bytes.size(); ++cut)
    CHECK_THROWS_AS(take_contacts(bytes.substr(0, cut), 5, loopback()), bad_message);
}

TEST_CASE("a rank that has done its work may leave", "[parallel][rendezvous]") {
  auto const leaver = GENERATE(0, 1, 2);
  auto const port = free_port();
  auto const said = processes::run(3, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 3, port), {.timeout = 10s}};
    return rank == leaver ? "left" : fate(meeting, 200ms);
  });
  for (int r = 0; r < 3; ++r) CHECK(said[static_cast<std::size_t>(r)] == (r == leaver ? "left" : "peace"));
}

TEST_CASE("whoever waits for rank 0's bytes learns that they do not come", "[parallel][rendezvous]") {
  auto const port = free_port();
  auto const said = processes::run(4, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 4, port), {.timeout = 500ms}};
    std::array<std::byte, 4> four{};
    if (rank == 0) {
      std::this_thread::sleep_for(100ms);
      meeting.announce("it is tired");
      return {};
    }
    meeting.broadcast_bytes(four);
    return "heard";
  });
  for (std::size_t r = 1; r < 4; ++r) CHECK(said[r] == "rank 0 is gone: it is tired");

  auto const sizes = processes::run(2, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 2, port), {.timeout = 500ms}};
    std::array<std::byte, 4> four{};
    meeting.broadcast_bytes(std::span{four}.first(rank == 0 ? 4 : 3));
    return fate(meeting);
  });
  CHECK(sizes[1] == "ranks disagree: rank 0 broadcasts 4 bytes, rank 1 waits for 3");
  CHECK(sizes[0] == "rank 1 is gone: it left with an exception");

  auto const silent = processes::run(2, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 2, port), {.timeout = 300ms}};
    std::array<std::byte, 4> four{};
    if (rank == 1)
      meeting.broadcast_bytes(four);
    return fate(meeting, 1s);
  });
  CHECK(silent[1] == "rank 0 has broadcast nothing for 0.3 s");
  CHECK(silent[0] == "rank 1 is gone: it left with an exception");
}
