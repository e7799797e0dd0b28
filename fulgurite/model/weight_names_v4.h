#pragma once
// The names of DeepSeek-V4's tensors, for weight_names.cpp alone.

#include "fulgurite/model/weight_names.h"

namespace fulgurite::model {

std::vector<TensorName> tensor_names_v4(const Config& config, Spelling spelling);

}  // namespace fulgurite::model
