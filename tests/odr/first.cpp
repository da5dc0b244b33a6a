// Half of a program whose two translation units include every header.
#include <all_headers.hpp>

std::string_view version_of_the_other_unit();

int main() { return version_of_the_other_unit() == yoke::version ? 0 : 1; }
