// Ranks of MPI of which one does what it should not; the others say so and end. faults <what>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/mpi.hpp>

#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

using namespace yoke;
using namespace std::chrono_literals;

namespace {

void misbehave(parallel::mpi& c, std::string const& what) {
  std::vector<float> buffer(5);
  view<float, 1> const five{buffer.data(), {{5}}};
  barrier(c);
  auto const bad = c.rank() == 1;
  if (what == "missing" && bad)
    std::this_thread::sleep_for(60s);
  else if (what == "mesh") {  // of two by two: rank 0 waits for rank 2, and rank 2 for rank 3
    parallel::mesh mesh{c, {.data = 2, .model = 2}};
    if (c.rank() == 3)
      std::this_thread::sleep_for(60s);
    all_reduce(mesh.model(), five);
    all_reduce(mesh.data(), five);
  } else if (what == "dies" && bad)
    std::raise(SIGKILL);
  else if (what == "throws" && bad)
    throw std::runtime_error("the disk is full");
  else if (what == "leaves" && bad)
    return;
  else if (what == "size")
    all_reduce(c, view<float, 1>{buffer.data(), {{bad ? 3 : 5}}});
  else if (what == "call" && bad)
    broadcast(c, five, 0);
  else if (what == "reduction")
    all_reduce(c, five, bad ? parallel::reduction::maximum : parallel::reduction::sum);
  else if (what == "root")
    broadcast(c, five, bad ? 1 : 0);
  else if (what == "parts") {
    std::vector<extent_t> begins(static_cast<std::size_t>(c.size()) + 1, bad ? 1 : 0);
    all_gather_parts(c, five, begins);
  } else
    all_reduce(c, five);
}

}  // namespace

int main(int argc, char** argv) {
  parallel::mpi_session session{argc, argv};
  std::string const what = argc > 1 ? argv[1] : "";
  try {
    parallel::mpi whole{session, {.timeout = 2s}};
    auto c = split(whole, 0);
    try {
      misbehave(c, what);
    } catch (parallel::error const& e) {
      std::string again;
      try {
        barrier(whole);
      } catch (parallel::error const& second) {
        again = second.what();
      }
      if (again != e.what())
        std::printf("another sentence: %s\n", again.c_str());
      throw;
    }
  } catch (std::exception const& e) {
    std::printf("%s\n", e.what());
    std::fflush(stdout);
    std::this_thread::sleep_for(500ms);  // the others have their say
    session.give_up();
    return 1;
  }
}
