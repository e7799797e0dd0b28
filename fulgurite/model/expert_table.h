#pragma once
// The experts of each token id, of layers that choose them so. Reads the data: a few MB a layer.

#include <optional>
#include <string>

#include "fulgurite/model/bind.h"
#include "fulgurite/model/finding.h"

namespace fulgurite::model {

// The first row that is not of distinct numbers in [0, experts); none: every row is.
std::optional<Finding> examine_table(const std::string& name, const StoredTable& table, int64_t experts);

// Throws Error{kModel}. Whoever reads the tables asks this first: their numbers are indices.
void require_expert_tables(const Model& model);

}  // namespace fulgurite::model
