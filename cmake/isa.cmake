# The CPU kernels are built once per instruction set; the plan chooses among them (fulgurite/cpu/kernels.h).
# -Wno-psabi: 64-byte vectors stay inside a file, so how they would be passed between files does not matter.
set(FULGURITE_ISA_portable "")
set(FULGURITE_ISA_avx2 -mavx2 -mfma)
set(FULGURITE_ISA_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512)
set(FULGURITE_ISA_avx512_bf16 ${FULGURITE_ISA_avx512} -mavx512vbmi -mavx512bf16)
set(FULGURITE_ISA_amx ${FULGURITE_ISA_avx512_bf16} -mamx-tile -mamx-bf16)
set(FULGURITE_KERNEL_OPTIMIZATION -O3)
if(FULGURITE_SANITIZE)
  # Checked kernels take minutes to compile at -O3; those of AMX, all of whose bodies but the tile product are AVX-512's,
  # go unchecked.
  set(FULGURITE_KERNEL_OPTIMIZATION -O1)
  list(APPEND FULGURITE_ISA_amx -fno-sanitize=all)
  list(APPEND FULGURITE_ISA_avx512_bf16 -fno-sanitize=undefined)  # seven minutes otherwise
endif()
foreach(isa portable avx2 avx512 avx512_bf16 amx)
  set(source fulgurite/cpu/kernels_${isa}.cpp)
  if(isa STREQUAL portable OR CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(${source} PROPERTIES
                                COMPILE_OPTIONS "${FULGURITE_KERNEL_OPTIMIZATION};-Wno-psabi;${FULGURITE_ISA_${isa}}"
                                SKIP_PRECOMPILE_HEADERS ON)
  else()
    set_source_files_properties(${source} PROPERTIES HEADER_FILE_ONLY ON)
  endif()
endforeach()
