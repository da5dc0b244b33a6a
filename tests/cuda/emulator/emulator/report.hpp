// How the emulator says that a program is wrong: a sentence on the error stream, and the end of the program.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

namespace emulator {

[[noreturn]] inline void fail(std::string const& what) {
  std::fprintf(stderr, "emulator: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

inline std::string kernel_name(void const* kernel) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", kernel);
  return text;
}

}  // namespace emulator
