include(GNUInstallDirs)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()
option(FULGURITE_TOOL "build the command fulgurite" ON)
option(FULGURITE_CUDA "build the kernels of GPUs (nvcc 13)" OFF)
# SASS of both: nothing is compiled when a program runs. 80 runs on 8.x, 90a on 9.0. 80-virtual alone: the generic rows, compiled by the
# driver, on any GPU from 8.0 on (./dev test --cuda --generic).
set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING "of the GPUs that kernels are built for")
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
target_compile_options(fulgurite_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -ffp-contract=off>)
# GCC 12 sees overlaps and overruns inside std::string that are not there (GCC bug 105651); newer ones and clang do not.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(fulgurite_options INTERFACE
                         $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict -Wno-array-bounds -Wno-stringop-overflow>)
endif()
if(FULGURITE_SANITIZE)
  target_compile_options(fulgurite_options INTERFACE -fsanitize=${FULGURITE_SANITIZE} -fno-omit-frame-pointer
                                                     -fno-sanitize-recover=all)
  target_link_options(fulgurite_options INTERFACE -fsanitize=${FULGURITE_SANITIZE})
endif()

# Tests and the command are checked for addresses only: the undefined behaviour looked for is the library's, and looking for it
# costs most of a test's compile time.
function(fulgurite_checks_addresses_only target)
  if(FULGURITE_SANITIZE)
    target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
  endif()
endfunction()
