#pragma once
// The machine that this process runs on, as a Device: processor, instruction set, processors it may use,
// memory that is left.

#include "fulgurite/core/device.h"

namespace fulgurite::cpu {

// threads: the processors that this process may run on and has a quota of. available_bytes: the smaller of
// what the system has available and what the control group of the process leaves. Unknown facts are left at
// "unknown CPU" and the largest number.
Device machine();

// Bytes of anonymous memory that this process holds now (RssAnon); 0 where the system does not tell.
int64_t anonymous_resident_bytes();

}  // namespace fulgurite::cpu
