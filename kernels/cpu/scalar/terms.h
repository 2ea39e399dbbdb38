// Terms of the loss from a sample's moments, and coefficients of its gradient.
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

// Returns the loss of the moments m[0..count-1] of a sample of `size` numbers, and writes its
// derivative by each. The older regularisers are forms of it, too: kl (orders 1 and 2), kurtosis (2
// and 4) and norm (2).
double moment_loss(const Orders& orders, Form form, std::int64_t size, const double* m,
                   double* derivative);

// The gradient by x_i of sum_n derivative_n m_n is a polynomial in x_i. Writes its coefficients
// times `scale`: coefficient[j] of x^j for j < orders.highest.
void gradient_polynomial(const Orders& orders, std::int64_t size, const double* derivative,
                         double scale, float* coefficient);

}  // namespace gaussreg
