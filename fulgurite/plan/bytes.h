#pragma once
// Sizes that cannot overflow unseen: a product of counts that does not fit is an Error{kMemory}, not a small
// number.

#include <cstdint>
#include <initializer_list>
#include <string>

namespace fulgurite::plan {

int64_t product(std::initializer_list<int64_t> factors);

// "1.50 GiB", "12.0 KiB", "17 B"
std::string human_bytes(int64_t bytes);

}  // namespace fulgurite::plan
