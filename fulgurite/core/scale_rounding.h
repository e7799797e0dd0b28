#pragma once
// How a group's scale follows from its largest magnitude m and the largest code c (448, or 6 of fp4).

namespace fulgurite {

// m * fp32(1/c); that, up to the next power of two; m / c, rounded once. Up to a power of two, product and
// quotient are the same.
enum class ScaleRounding { kNone, kPow2, kDivided };

}  // namespace fulgurite
