#pragma once
// What the parts of indexer_probe share.

#include "bench/cuda/indexer_probe_reference.h"
#include "bench/cuda/probe_kit.h"

namespace fulgurite::probe {

void check_numbers();
void check_projections(bool fast);
void check_preparations(bool fast);
void run_small_projections();
void run_small_preparations();
void time_all(int processors);

}  // namespace fulgurite::probe
