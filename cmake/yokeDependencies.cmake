# What yoke::yoke needs, found the same way by Yoke's own build and by an installed package.
find_package(Threads QUIET)
find_package(dnnl 3.2 CONFIG QUIET)
# Eigen 5 refuses a plain request for 3.4, and 3.4 does not know ranges.
find_package(Eigen3 3.4...5 CONFIG QUIET)
if(NOT Eigen3_FOUND)
  find_package(Eigen3 3.4 CONFIG QUIET)
endif()

set(yoke_missing "")
foreach(dependency IN ITEMS Threads::Threads DNNL::dnnl Eigen3::Eigen)
  if(NOT TARGET ${dependency})
    list(APPEND yoke_missing ${dependency})
  endif()
endforeach()
