// What a downstream project writes first.
#include <yoke/version.hpp>

int main() { return yoke::version.empty() ? 1 : 0; }
