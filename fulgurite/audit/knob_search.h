#pragma once
// Which single choice of numerics makes a stage what the dump has?

#include "fulgurite/audit/bisect.h"
#include "fulgurite/audit/stage_judge.h"

namespace fulgurite::audit {

// Fills report.tried, refused, explanations and nearest.
void search_choices(const StageJudge& judge, const model::Model& model, const Device& device,
                    const plan::Options& options, const Dump& dump, const StageResult& bad,
                    BisectReport& report, const Progress& progress);

}  // namespace fulgurite::audit
