# The cases of every operation and the clock, for the command and for tests.
file(GLOB FULGURITE_BENCH_SOURCES CONFIGURE_DEPENDS bench/*.cpp)
add_library(fulgurite_bench STATIC ${FULGURITE_BENCH_SOURCES})
target_include_directories(fulgurite_bench PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(fulgurite_bench PRIVATE fulgurite fulgurite_options)
target_precompile_headers(fulgurite_bench PRIVATE <fmt/format.h> <string> <vector>)
fulgurite_checks_addresses_only(fulgurite_bench)
fulgurite_add_cuda_objects(fulgurite_bench fulgurite_bench_cuda)
