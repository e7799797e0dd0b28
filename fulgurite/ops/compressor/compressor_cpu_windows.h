#pragma once
// What the CPU's rows share: the scratch memory of a chunk of tokens, and what follows once u and g of its
// tokens are known: the state, the averages of the windows that end, and their rows.

#include <algorithm>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {

// Tokens [first, first + count) of a sequence; `windows` end in the chunk before them.
struct Stretch {
  int32_t first;
  int32_t count;
  int32_t windows;
};

struct Windows {
  float* projected;    // [chunk, 2, width]
  float* pooled;       // [chunk, dim]: of each window that ends
  Stretch* stretches;  // [chunk]
  int32_t* ends;       // [chunk]: the tokens that end windows
};

int64_t chunk_of(const Problem& problem);
Windows cut_windows(const Problem& problem, cpu::Cutter& cutter);

// The tokens [first, first + count) alone; u and g go to the scratch memory unless they are asked for.
Args chunk_args(const Problem& problem, const Args& args, int64_t first, int64_t count,
                const Windows& windows);

// u (part 0) or g (part 1) of the tokens.
inline View<float, 2> part_of(const Args& args, int64_t part) {
  const View<float, 3>& all = args.projected;
  return {all.data + part * all.stride[1], {all.extent[0], all.extent[2]}, {all.stride[0], 1}};
}

// Makes g of the products in columns [first, first + count) of token t.
void add_ape(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t, int64_t first,
             int64_t count);

// From u and g in args.projected to the cache.
void make_entries(const Problem& problem, const Args& args, const Lane& lane, const Windows& windows);

// A call, chunk by chunk; project(args) makes u and g of a chunk's tokens.
template <class Project>
void run_in_chunks(const Problem& problem, const Args& args, const Lane& lane, const Windows& windows,
                   const Project& project) {
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const Args part = chunk_args(problem, args, t, std::min(chunk, tokens - t), windows);
    project(part);
    make_entries(problem, part, lane, windows);
  }
}

}  // namespace fulgurite::compressor
