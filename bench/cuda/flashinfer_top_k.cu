// A C entry to FlashInfer's top k for layer_peers.py and parts_peers.py, from the headers of PyPI's flashinfer-python:
//
//   nvcc -arch=sm_90a -O3 -std=c++17 -shared -Xcompiler -fPIC -I PACKAGE/flashinfer/data/include -o FILE.so bench/cuda/flashinfer_top_k.cu
//
// logits [rows, length] f32; indices and values [rows, k], unsorted; states: 1 MB of zeros, left as they were. Returns a cudaError_t.
#include <flashinfer/sampling.cuh>  // first: topk.cuh leans on it
#include <flashinfer/topk.cuh>

extern "C" int top_k(float* logits, int* indices, float* values, void* states, unsigned rows, unsigned k,
                     unsigned length, int lowest_index, void* stream) {
  using namespace flashinfer::sampling;
  const auto ties = lowest_index ? TopKTieBreak::Small : TopKTieBreak::None;
  return TopKDispatch<float, int>(logits, indices, values, rows, k, length,
                                  static_cast<RadixRowState*>(states), false, lowest_index != 0, ties,
                                  static_cast<cudaStream_t>(stream));
}
