#pragma once
// The public C++ API: everything from a checkpoint's directory to text.
//
//   auto checkpoint = fulgurite::checkpoint::open(directory);       // bytes, names, types, shapes
//   auto model = fulgurite::model::bind(checkpoint);                // every name exact, every shape proven
//   auto plan = fulgurite::plan::make(model, fulgurite::cpu::machine(), options);  // every choice, with its reasons
//   fulgurite::execute::Session session(model, std::move(plan));    // weights prepared, buffers owned
//   auto logits = session.forward(0, ids);                          // no choices left, no allocation
//   int32_t id = session.next_token(0, ids, &sampler);              // the next one; logits stay where they are
//
// Whatever is wrong outside throws fulgurite::Error, whose message is one line. The checkpoint outlives the
// model, the model the session.

#include "fulgurite/audit/audit.h"
#include "fulgurite/audit/bisect.h"
#include "fulgurite/audit/compare_files.h"
#include "fulgurite/audit/profiles.h"
#include "fulgurite/audit/trace.h"
#include "fulgurite/audit/what_if.h"
#include "fulgurite/checkpoint/checkpoint.h"
#include "fulgurite/checkpoint/writer.h"
#include "fulgurite/core/error.h"
#include "fulgurite/cpu/machine.h"
#include "fulgurite/cuda/device.h"
#include "fulgurite/execute/sampler.h"
#include "fulgurite/execute/session.h"
#include "fulgurite/model/bind.h"
#include "fulgurite/model/convert.h"
#include "fulgurite/model/lint.h"
#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/counts.h"
#include "fulgurite/plan/plan.h"
#include "fulgurite/tokenizer/text_stream.h"
#include "fulgurite/tokenizer/tokenizer.h"
