// A rank on a host of its own, for apart.sh: sums with the others, as often as it is told, until something fails.
//
//   apart SUMS [SILENCE]     the seconds after which a rank that is not heard is gone
#include <yoke/parallel/tcp.hpp>

#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char** argv) {
  using namespace yoke;
  int done = 0;
  try {
    parallel::rendezvous_options options{.timeout = std::chrono::seconds{20}};
    if (argc > 2)
      options.silence = std::chrono::seconds{std::atoi(argv[2])};
    options.heartbeat = options.silence / 8;
    auto const here = parallel::find_environment();
    if (!here) {
      std::puts("no launcher says who else there is");
      return 2;
    }
    parallel::rendezvous meeting{*here, options};
    parallel::tcp whole{meeting};
    auto ranks = split(whole, 0);
    for (auto const sums = argc > 1 ? std::atoi(argv[1]) : 100; done < sums; ++done) {
      std::vector<float> much(1 << 18, 1.f);
      all_reduce(ranks, view<float, 1>{much.data(), {{std::ssize(much)}}});
      if (much.back() != static_cast<float>(ranks.size())) {
        std::puts("the sum is wrong");
        return 2;
      }
    }
    std::printf("%d sums\n", done);
    return 0;
  } catch (std::exception const& e) {
    std::printf("%d sums, then: %s\n", done, e.what());
    return 1;
  }
}
