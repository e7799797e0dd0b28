include(GNUInstallDirs)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()
option(FULGURITE_TOOL "build the command fulgurite" ON)
option(FULGURITE_TESTS "build the tests" OFF)
option(FULGURITE_FUZZ "build the fuzz targets (clang)" OFF)
set(FULGURITE_SANITIZE "" CACHE STRING "sanitizers of the whole build, for example address,undefined")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# What every target of this project is compiled with, and no user of the library.
add_library(fulgurite_options INTERFACE)
# a*b + c is two roundings on every machine: contraction is off (docs/numerics.md).
target_compile_options(fulgurite_options INTERFACE -Wall -Wextra -Werror -ffp-contract=off
                       # GCC 12 warns of a false overlap inside std::string (GCC bug 105651).
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
if(FULGURITE_SANITIZE)
  target_compile_options(fulgurite_options INTERFACE -fsanitize=${FULGURITE_SANITIZE} -fno-omit-frame-pointer
                                                     -fno-sanitize-recover=all)
  target_link_options(fulgurite_options INTERFACE -fsanitize=${FULGURITE_SANITIZE})
endif()
