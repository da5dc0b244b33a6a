// The other half.
#include <all_headers.hpp>

std::string_view version_of_the_other_unit();
std::string_view version_of_the_other_unit() { return yoke::version; }
