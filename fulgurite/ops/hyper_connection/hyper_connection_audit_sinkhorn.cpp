#include <algorithm>
#include <cmath>
#include <vector>

#include "fulgurite/ops/hyper_connection/hyper_connection_audit_sinkhorn.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr double kLargestShare = 0x1p-7;  // of an element, that first order is taken for

Square transposed(const Square& c) {
  Square t;
  for (size_t j = 0; j < 4; ++j)
    for (size_t k = 0; k < 4; ++k) t[k][j] = c[j][k];
  return t;
}

Square softmax(const Square& z) {
  Square p;
  for (size_t j = 0; j < 4; ++j) {
    const double largest = *std::max_element(z[j].begin(), z[j].end());
    double sum = 0.0;
    for (size_t k = 0; k < 4; ++k) sum += p[j][k] = std::exp(z[j][k] - largest);
    for (double& value : p[j]) value /= sum;
  }
  return p;
}

// What each element is of its row's sum and eps.
Square shares(const Square& c, double eps) {
  Square w = c;
  for (auto& row : w) {
    const double sum = row[0] + row[1] + row[2] + row[3] + eps;
    for (double& value : row) value /= sum;
  }
  return w;
}

// One normalization: along rows of the square, or of the transposed one.
struct Step {
  bool columns;
  Square w;
};

double total(const Square& a) {
  double sum = 0.0;
  for (const auto& row : a)
    for (const double value : row) sum += std::abs(value);
  return sum;
}

// What an influence on the normalized is as one on what was normalized.
Square before(const Square& w, Square influence) {
  for (size_t j = 0; j < 4; ++j) {
    const double row = influence[j][0] + influence[j][1] + influence[j][2] + influence[j][3];
    for (size_t k = 0; k < 4; ++k) influence[j][k] -= w[j][k] * row;
  }
  return influence;
}

struct Run {
  Square p;                 // the softmax
  std::vector<Step> steps;  // after eps was added to it
  Square c;                 // the end
};

Run run_of(const Square& logits, int iterations, double eps) {
  Run run{softmax(logits), {}, {}};
  run.c = run.p;
  for (auto& row : run.c)
    for (double& value : row) value += eps;
  for (int i = 1; i < 2 * iterations; ++i) {
    const bool columns = i % 2 == 1;
    const Square w = shares(columns ? transposed(run.c) : run.c, eps);
    run.steps.push_back({columns, w});
    run.c = columns ? transposed(w) : w;
  }
  return run;
}

// The differences in logarithm that reach element (j, k) of the end.
double reaching(const Run& run, const Square& logits, const Square& difference, double eps, size_t j,
                size_t k) {
  Square influence{};
  influence[j][k] = 1.0;
  double reached = 0.0;
  for (size_t s = run.steps.size(); s-- > 0;) {
    reached += 10.0 * kUnit * total(influence);  // four adds and a quotient, twice
    const Step& step = run.steps[s];
    influence = step.columns ? transposed(before(step.w, transposed(influence))) : before(step.w, influence);
  }
  reached += 2.0 * kUnit * total(influence);  // the add of eps, twice
  for (size_t a = 0; a < 4; ++a)
    for (size_t b = 0; b < 4; ++b)
      influence[a][b] *= run.p[a][b] > 0.0 ? run.p[a][b] / (run.p[a][b] + eps) : 0.0;
  reached += 8.0 * kUnit * total(influence);  // three adds and a quotient, twice
  influence = before(run.p, influence);
  for (size_t a = 0; a < 4; ++a) {
    const double largest = *std::max_element(logits[a].begin(), logits[a].end());
    for (size_t b = 0; b < 4; ++b)  // the subtraction and the exponential, twice
      reached +=
          std::abs(influence[a][b]) * (difference[a][b] + 2.0 * kUnit * (1.0 + largest - logits[a][b]));
  }
  return reached;
}

}  // namespace

Square sinkhorn_bound(const Square& logits, const Square& difference, int iterations, double eps) {
  const Run run = run_of(logits, iterations, eps);
  Square bound;
  for (size_t j = 0; j < 4; ++j) {
    for (size_t k = 0; k < 4; ++k) {
      const double share = reaching(run, logits, difference, eps, j, k);
      bound[j][k] = share < kLargestShare ? 1.05 * share * run.c[j][k] + 0x1p-140 : 1.0;
    }
  }
  return bound;
}

}  // namespace fulgurite::hyper_connection
