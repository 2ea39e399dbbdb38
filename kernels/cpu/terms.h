// What becomes of a sample's moments: terms of the loss, and coefficients of its gradient.
#pragma once

#include <cstdint>

namespace gaussreg {

constexpr int kMaxOrder = 8;

enum class Form { kRoot, kAbsolute, kSquared, kKl, kKurtosis, kNorm };

struct Orders {
  int count = 0;
  int order[kMaxOrder];
  int highest = 0;
};

// The loss of the moments m[0..count-1] of a sample of `size` numbers, and its derivative by each.
// Every term of the older regularisers (kl: orders 1, 2; kurtosis: 2, 4; norm: 2) is one of them.
double moment_loss(const Orders& orders, Form form, std::int64_t size, const double* m,
                   double* derivative);

// The gradient by x_i of sum_n derivative_n m_n is a polynomial in x_i: its coefficients,
// coefficient[j] of x^j for j < orders.highest, times `scale`.
void gradient_polynomial(const Orders& orders, std::int64_t size, const double* derivative,
                         double scale, float* coefficient);

}  // namespace gaussreg
