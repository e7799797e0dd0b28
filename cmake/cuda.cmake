# The kernels of GPUs. Without FULGURITE_CUDA the generic rows (fulgurite/cuda/generic.h) are built as C++ loops, which tests run
# on the host; the fast ones are not built.
#
# How nvcc compiles all of them.
function(fulgurite_compiles_for_gpus target)
  target_link_libraries(${target} PRIVATE fmt::fmt)
  # No contraction, as everywhere. 554: a conversion that is never used. fmt asks a compiler's version before it lets it check
  # formats at compile time; nvcc takes its constexpr, not its consteval.
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-fmad=false;-diag-suppress=554;-lineinfo;-Xcompiler=-ffp-contract=off>"
    $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
  target_compile_definitions(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=>
                                               $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
endfunction()

# X_cuda.cu is for every architecture asked for; X_cuda_ANYTHING.cu has instructions of Hopper's own (wgmma, clusters, the copy
# engine) and is built for 90a alone, if that is asked for.
function(fulgurite_cuda_objects target)
  set(sources ${ARGN})
  if(NOT FULGURITE_CUDA)
    list(FILTER sources EXCLUDE REGEX "_cuda_[a-z0-9_]+\\.cu$")
    set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++" SKIP_PRECOMPILE_HEADERS ON)
    add_library(${target} OBJECT ${sources})
    target_link_libraries(${target} PRIVATE fmt::fmt fulgurite_options)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
    return()
  endif()
  set(hopper ${sources})
  list(FILTER hopper INCLUDE REGEX "_cuda_[a-z0-9_]+\\.cu$")
  list(FILTER sources EXCLUDE REGEX "_cuda_[a-z0-9_]+\\.cu$")
  add_library(${target} OBJECT ${sources})
  set(parts ${target})
  if(FULGURITE_HOPPER)
    add_library(${target}_hopper OBJECT ${hopper})
    set_target_properties(${target}_hopper PROPERTIES CUDA_ARCHITECTURES "${FULGURITE_HOPPER}")
    target_compile_definitions(${target} PRIVATE FULGURITE_HOPPER)
    list(APPEND parts ${target}_hopper)
  endif()
  foreach(part ${parts})
    target_include_directories(${part} PRIVATE ${PROJECT_SOURCE_DIR})
    fulgurite_compiles_for_gpus(${part})
  endforeach()
endfunction()

# Those that fulgurite_cuda_objects made, in a target.
function(fulgurite_add_cuda_objects target objects)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  if(TARGET ${objects}_hopper)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}_hopper>)
  endif()
endfunction()

if(FULGURITE_CUDA)
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # which CMake before 3.27 does not know of nvcc 13
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  find_package(CUDAToolkit 13.0 REQUIRED)
  set(FULGURITE_HOPPER ${CMAKE_CUDA_ARCHITECTURES})
  list(FILTER FULGURITE_HOPPER INCLUDE REGEX "^90a")
  target_link_libraries(fulgurite PRIVATE $<LINK_ONLY:CUDA::cudart_static>)
  file(GLOB FULGURITE_CUDA_RULES CONFIGURE_DEPENDS fulgurite/ops/*/*_rules.cpp)
  set_source_files_properties(fulgurite/plan/catalog.cpp ${FULGURITE_CUDA_RULES} PROPERTIES COMPILE_DEFINITIONS
                              "FULGURITE_CUDA;$<$<BOOL:${FULGURITE_HOPPER}>:FULGURITE_HOPPER>")
endif()
file(GLOB_RECURSE FULGURITE_CUDA_SOURCES CONFIGURE_DEPENDS fulgurite/*.cu)
if(NOT FULGURITE_FUZZ)
  fulgurite_cuda_objects(fulgurite_cuda ${FULGURITE_CUDA_SOURCES})
  fulgurite_add_cuda_objects(fulgurite fulgurite_cuda)
  # What bench/ has of the device: its limits and its clock.
  file(GLOB FULGURITE_BENCH_CUDA_SOURCES CONFIGURE_DEPENDS bench/*.cu)
  fulgurite_cuda_objects(fulgurite_bench_cuda ${FULGURITE_BENCH_CUDA_SOURCES})
  add_custom_target(fulgurite_kernels DEPENDS fulgurite_cuda fulgurite_bench_cuda)
  foreach(hopper fulgurite_cuda_hopper fulgurite_bench_cuda_hopper)
    if(TARGET ${hopper})
      add_dependencies(fulgurite_kernels ${hopper})
    endif()
  endforeach()
endif()
