# The kernels of GPUs. Without FULGURITE_CUDA the generic rows (fulgurite/cuda/generic.h) are built as C++ loops, which tests run
# on the host; the fast ones are not built.
file(GLOB_RECURSE FULGURITE_CUDA_SOURCES CONFIGURE_DEPENDS fulgurite/*.cu)
if(FULGURITE_FUZZ)
  set(FULGURITE_CUDA_SOURCES)
endif()
if(FULGURITE_CUDA)
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # which CMake before 3.27 does not know of nvcc 13
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  find_package(CUDAToolkit 13.0 REQUIRED)
  add_library(fulgurite_cuda OBJECT ${FULGURITE_CUDA_SOURCES})
  target_include_directories(fulgurite_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(fulgurite_cuda PRIVATE fmt::fmt)
  # No contraction, as everywhere. 554: a conversion that is never used. fmt asks a compiler's version before it lets it check
  # formats at compile time; nvcc takes its constexpr, not its consteval.
  target_compile_options(fulgurite_cuda PRIVATE --expt-relaxed-constexpr -fmad=false -diag-suppress=554 -lineinfo
                                                -Xcompiler=-ffp-contract=off)
  target_compile_definitions(fulgurite_cuda PRIVATE FMT_CONSTEVAL= FMT_USE_CONSTEXPR=1)
  target_sources(fulgurite PRIVATE $<TARGET_OBJECTS:fulgurite_cuda>)
  target_link_libraries(fulgurite PRIVATE $<LINK_ONLY:CUDA::cudart_static>)
  file(GLOB FULGURITE_CUDA_RULES CONFIGURE_DEPENDS fulgurite/ops/*/*_rules.cpp)
  set_source_files_properties(fulgurite/plan/catalog.cpp ${FULGURITE_CUDA_RULES} PROPERTIES COMPILE_DEFINITIONS FULGURITE_CUDA)
else()
  list(FILTER FULGURITE_CUDA_SOURCES EXCLUDE REGEX "_cuda_[a-z_]+\\.cu$")
  target_sources(fulgurite PRIVATE ${FULGURITE_CUDA_SOURCES})
  set_source_files_properties(${FULGURITE_CUDA_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++"
                              SKIP_PRECOMPILE_HEADERS ON)
endif()
