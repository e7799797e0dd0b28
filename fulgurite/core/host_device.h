#pragma once
// Marks functions of few lines that a GPU's kernels call as well. To a C++ compiler it says nothing.

#if defined(__CUDACC__)
#define FULGURITE_HOST_DEVICE __host__ __device__
#else
#define FULGURITE_HOST_DEVICE
#endif
