// What all benchmarks share, whatever they run on: the line of JSON that benchmarks/run.sh puts into its table.
#pragma once
#include <cstdio>
#include <string>

namespace bench {

/// `share`: of the GEMM peak, unless `more` says "share_of". `more`: further members, as JSON.
inline void report(std::string const& work, std::string const& mode, double rate, std::string const& unit,
                   double share, std::string const& more = "") {
  std::printf(R"({"work": "%s", "mode": "%s", "rate": %.4g, "unit": "%s", "share_of_peak": %.3f%s})"
              "\n",
              work.c_str(), mode.c_str(), rate, unit.c_str(), share,
              more.empty() ? "" : (", " + more).c_str());
  std::fflush(stdout);
}

}  // namespace bench
