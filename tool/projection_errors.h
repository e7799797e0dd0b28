#pragma once
// bench indexer_projection --errors: accuracy in the place of time.

#include "bench/case.h"

namespace fulgurite::tool {

int print_projection_errors(const bench::Request& request, int threads, bool json);

}  // namespace fulgurite::tool
