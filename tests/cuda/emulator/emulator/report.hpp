// How the emulator says that a program is wrong: a sentence on the
// error stream, and the end of the program.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <elf.h>
#include <fstream>
#include <link.h>
#include <string>
#include <vector>

namespace emulator {

[[noreturn]] inline void fail(std::string const& what) {
  std::fprintf(stderr, "emulator: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

/// The symbol of the program at an address, from its own file, because kernels are static; "" where that has none.
inline std::string symbol_at(std::uintptr_t address) {
  std::uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* program, std::size_t,
         void* to) {  // the program itself comes first
        *static_cast<std::uintptr_t*>(to) = program->dlpi_addr;
        return 1;
      },
      &base);
  std::ifstream file{"/proc/self/exe", std::ios::binary};
  auto const read = [&file](auto& to, std::uint64_t count, std::uint64_t offset) {
    to.resize(count);
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(count * sizeof to[0]));
  };
  std::vector<ElfW(Ehdr)> head;
  read(head, 1, 0);
  std::vector<ElfW(Shdr)> sections;
  read(sections, head[0].e_shnum, head[0].e_shoff);
  for (auto const& table : sections) {
    if (table.sh_type != SHT_SYMTAB)
      continue;
    std::vector<ElfW(Sym)> symbols;
    read(symbols, table.sh_size / sizeof(ElfW(Sym)), table.sh_offset);
    std::string names;
    read(names, sections.at(table.sh_link).sh_size, sections.at(table.sh_link).sh_offset);
    for (auto const& s : symbols)
      if ((s.st_info & 15) == STT_FUNC && s.st_value == address - base)
        return names.c_str() + s.st_name;
  }
  return {};
}

/// "void add_kernel<float>(float const*, float*, long)"
inline std::string kernel_name(void const* kernel) {
  auto const symbol = symbol_at(reinterpret_cast<std::uintptr_t>(kernel));
  int status = 0;
  char* const name = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string const text = status == 0 ? name : symbol.empty() ? "without a name" : symbol;
  std::free(name);
  return text;
}

}  // namespace emulator
