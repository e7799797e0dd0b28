# The CPU kernels are built once per instruction set; the plan chooses among them (fulgurite/cpu/kernels.h).
# -Wno-psabi: 64-byte vectors stay inside a file, so how they would be passed between files does not matter.
set(FULGURITE_ISA_portable "")
set(FULGURITE_ISA_avx2 -mavx2 -mfma)
set(FULGURITE_ISA_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512)
set(FULGURITE_ISA_avx512_bf16 ${FULGURITE_ISA_avx512} -mavx512vbmi -mavx512bf16)
set(FULGURITE_ISA_amx ${FULGURITE_ISA_avx512_bf16} -mamx-tile -mamx-bf16)
foreach(isa portable avx2 avx512 avx512_bf16 amx)
  set(source fulgurite/cpu/kernels_${isa}.cpp)
  if(isa STREQUAL portable OR CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-O3;-Wno-psabi;${FULGURITE_ISA_${isa}}"
                                SKIP_PRECOMPILE_HEADERS ON)
  else()
    set_source_files_properties(${source} PROPERTIES HEADER_FILE_ONLY ON)
  endif()
endforeach()
