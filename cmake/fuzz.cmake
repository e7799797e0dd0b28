# libFuzzer targets, one for each reader of foreign bytes. Configure with clang and
# -DFULGURITE_SANITIZE=address,undefined,fuzzer-no-link.
file(GLOB_RECURSE FULGURITE_FUZZERS CONFIGURE_DEPENDS fulgurite/*_fuzz.cpp)
foreach(source ${FULGURITE_FUZZERS})
  get_filename_component(target ${source} NAME_WE)
  add_executable(${target} ${source})
  target_link_libraries(${target} PRIVATE fulgurite fulgurite_options nlohmann_json::nlohmann_json)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
endforeach()
