#include "terms.h"

#include <algorithm>
#include <cmath>

namespace gaussreg {
namespace {

constexpr double kEps = 1e-12;

double sign(double a) { return a > 0 ? 1 : a < 0 ? -1 : a; }  // NaN stays NaN

// max(a, low), NaN for NaN.
double at_least(double a, double low) { return a < low ? low : a; }

// E[z^n] for z ~ N(0, 1): 0 for odd n, (n - 1)!! for even n.
double target_moment(int n) {
  if (n % 2) return 0;
  double product = 1;
  for (int k = 1; k < n; k += 2) product *= k;
  return product;
}

double kl(double m1, double m2, double* derivative) {
  const double raw = m2 - m1 * m1, v = at_least(raw, kEps);
  const double excess = (m2 - 1) - m1 * m1;  // v - 1 and log1p keep the digits near v = 1
  const bool inside = raw > kEps;
  const double log_v = excess > -0.5 ? std::log1p(excess) : std::log(v);
  const double slope = inside ? excess / v : raw * 0;
  derivative[0] = m1 - m1 * slope;
  derivative[1] = 0.5 * slope;
  return 0.5 * ((inside ? excess : v - 1) - log_v + m1 * m1);
}

double kurtosis(double m2, double m4, double* derivative) {
  m2 = at_least(m2, kEps);
  const double gap = m4 / (m2 * m2) - 3;
  derivative[0] = -4 * gap * m4 / (m2 * m2 * m2);
  derivative[1] = 2 * gap / (m2 * m2);
  return gap * gap;
}

double norm(double m2, double size, double* derivative) {
  m2 = at_least(m2, kEps);
  derivative[0] = 0.5 * (size - (size - 1) / m2);
  return 0.5 * size * m2 - 0.5 * (size - 1) * std::log(size * m2);
}

double order_term(double m, int n, Form form, double& derivative) {
  const double mu = target_moment(n);
  if (form == Form::kSquared) {
    derivative = 2 * (m - mu);
    return (m - mu) * (m - mu);
  }
  if (form == Form::kAbsolute || n == 1) {
    derivative = sign(m - mu);
    return std::abs(m - mu);
  }
  const double size = std::abs(m);
  const double gap = std::pow(size, 1.0 / n) - std::pow(mu, 1.0 / n);
  derivative = sign(gap) * sign(m) * std::pow(at_least(size, kEps), 1.0 / n - 1) / n;
  return std::abs(gap);
}

}  // namespace

double moment_loss(const Orders& orders, Form form, std::int64_t size, const double* m,
                   double* derivative) {
  switch (form) {
    case Form::kKl:
      return kl(m[0], m[1], derivative);
    case Form::kKurtosis:
      return kurtosis(m[0], m[1], derivative);
    case Form::kNorm:
      return norm(m[0], static_cast<double>(size), derivative);
    default: {
      double loss = 0;
      for (int i = 0; i < orders.count; ++i)
        loss += order_term(m[i], orders.order[i], form, derivative[i]);
      return loss;
    }
  }
}

void gradient_polynomial(const Orders& orders, std::int64_t size, const double* derivative,
                         double scale, float* coefficient) {
  std::fill_n(coefficient, kMaxOrder, 0.0f);
  for (int i = 0; i < orders.count; ++i) {
    const int n = orders.order[i];
    coefficient[n - 1] = static_cast<float>(scale * derivative[i] * n / static_cast<double>(size));
  }
}

}  // namespace gaussreg
