# The kernels of GPUs. Without FULGURITE_CUDA the generic rows (fulgurite/cuda/generic.h) are built as C++ loops, which tests run
# on the host; the fast ones are not built.
file(GLOB_RECURSE FULGURITE_CUDA_SOURCES CONFIGURE_DEPENDS fulgurite/*.cu)
if(FULGURITE_FUZZ)
  set(FULGURITE_CUDA_SOURCES)
endif()
if(FULGURITE_CUDA)
  enable_language(CUDA)
  find_package(CUDAToolkit 13.0 REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  # No contraction, as everywhere. 554: a conversion that is never used. fmt asks a compiler's version before it lets it check
  # formats at compile time; nvcc takes its constexpr, not its consteval.
  set_source_files_properties(${FULGURITE_CUDA_SOURCES} PROPERTIES COMPILE_OPTIONS
      "--expt-relaxed-constexpr;-fmad=false;-diag-suppress=554;-DFMT_CONSTEVAL=;-DFMT_USE_CONSTEXPR=1;-Xcompiler=-ffp-contract=off"
      SKIP_PRECOMPILE_HEADERS ON)
else()
  list(FILTER FULGURITE_CUDA_SOURCES EXCLUDE REGEX "_cuda_[a-z_]+\\.cu$")
  set_source_files_properties(${FULGURITE_CUDA_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++"
                              SKIP_PRECOMPILE_HEADERS ON)
endif()
