#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/hyper_connection/hyper_connection.h"

namespace fulgurite::hyper_connection {

// A token whose dots come near the end of fp32's range is judged by its streams alone.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::hyper_connection
