"""Moments of samples, and the losses that are functions of them.

Orders are a bit mask: bit n stands for order n. `form` is "root", "absolute", "squared", or one of
the older regularisers "kl" (orders 1 and 2), "kurtosis" (2 and 4), "norm" (2).
"""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-12)  # the EPS of gaussreg_fast/reference/_moments.py


@triton.constexpr_function
def count(orders):
    """Return the number of orders."""
    return bin(orders).count("1")


@triton.constexpr_function
def place(orders, n):
    """Return the position of n among the ascending orders."""
    return bin(orders & ((1 << n) - 1)).count("1")


@triton.constexpr_function
def target_root(n, root):
    """Return E[z^n]^(1/root) for z ~ N(0, 1)."""
    product = 1
    for i in range(1, n, 2):
        product *= i
    return float(product) ** (1 / root) if n % 2 == 0 else 0.0


@triton.jit
def power_sums(x, ORDERS: tl.constexpr):
    """Return sums of x^n over the first dimension for each order, a tuple."""
    sums = ()
    power = x
    for n in tl.static_range(1, 9):
        if ORDERS >> n:
            if n > 1:
                power = power * x
            if (ORDERS >> n) & 1:
                sums = sums + (tl.sum(power, 0),)
    return sums


@triton.jit
def sign(a):
    """Return -1, 0 or 1; NaN for NaN."""
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, a * 0.0))


@triton.jit
def order_term(m, n: tl.constexpr, FORM: tl.constexpr):
    """Return the loss of the moment of order n, and its derivative by m."""
    if FORM == "squared":
        gap = m - target_root(n, 1)
        return gap * gap, 2 * gap
    elif (FORM == "absolute") | (n == 1):
        gap = m - target_root(n, 1)
        return tl.abs(gap), sign(gap)
    else:
        size = tl.abs(m)
        root = nth_root(size, n)
        gap = root
        if n % 2 == 0:
            # root - mu^(1/n) = (|m| - mu) / sum_i root^i mu^((n - 1 - i) / n) has no cancellation.
            factor = root * 0
            for i in tl.static_range(n):
                factor = factor * root + target_root(n, n) ** i
            # For a moment that overflowed this is inf / inf, but its root is inf.
            gap = tl.where(size == float("inf"), size, (size - target_root(n, 1)) / factor)
        bounded = tl.maximum(size, EPS, propagate_nan=tl.PropagateNan.ALL)
        slope = tl.exp2(tl.log2(bounded) * (1 / n - 1)) / n
        return tl.abs(gap), sign(gap) * sign(m) * slope


@triton.jit
def nth_root(a, n: tl.constexpr):
    """Return a^(1/n) for a >= 0."""
    root = tl.sqrt_rn(a)
    if n == 4:
        root = tl.sqrt_rn(root)
    elif n == 8:
        root = tl.sqrt_rn(tl.sqrt_rn(root))
    elif n != 2:
        root = tl.where(a == 0, 0.0, tl.exp2(tl.log2(a) / n))
    return root


@triton.jit
def moment_terms(m, ORDERS: tl.constexpr, FORM: tl.constexpr, D: tl.constexpr):
    """Return the loss of the moments m (a tuple), and the tuple of its derivatives by them."""
    if FORM == "kl":
        m1, m2 = m[0], m[1]
        raw = m2 - m1 * m1
        v = tl.maximum(raw, EPS, propagate_nan=tl.PropagateNan.ALL)
        excess = tl.where(raw > EPS, (m2 - 1) - m1 * m1, v - 1)
        loss = 0.5 * (excess - log_near_one(v, excess) + m1 * m1)
        slope = tl.where(raw > EPS, excess / v, raw * 0)
        return loss, (m1 - m1 * slope, 0.5 * slope)
    elif FORM == "kurtosis":
        m2 = tl.maximum(m[0], EPS, propagate_nan=tl.PropagateNan.ALL)
        gap = m[1] / (m2 * m2) - 3
        return gap * gap, (-4 * gap * m[1] / (m2 * m2 * m2), 2 * gap / (m2 * m2))
    elif FORM == "norm":
        m2 = tl.maximum(m[0], EPS, propagate_nan=tl.PropagateNan.ALL)
        loss = 0.5 * D * m2 - 0.5 * (D - 1) * tl.log(D * m2)
        return loss, (0.5 * (D - (D - 1) / m2),)
    else:
        loss = 0.0
        grads = ()
        for n in tl.static_range(1, 9):
            if (ORDERS >> n) & 1:
                term, slope = order_term(m[place(ORDERS, n)], n, FORM)
                loss = loss + term
                grads = grads + (slope,)
        return loss, grads


@triton.jit
def log_near_one(v, excess):
    """Return log v of v = 1 + excess, with all its digits near v = 1."""
    # log1p(e) = 2 atanh(e / (2 + e)), as a series: exact to float32 for |e| < 0.3.
    s = excess / (2 + excess)
    q = s * s
    series = 2 * s * (1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9)))))
    return tl.where(tl.abs(excess) < 0.3, series, tl.log(v))


@triton.jit
def moment_gradient(x, slopes, ORDERS: tl.constexpr, D: tl.constexpr):
    """Return sum_n slope_n n x^(n-1) / D, by Horner's rule; x * 0 without orders.

    If 1 is the only order, it is the slope over D, in the shape of the slope.
    """
    if ORDERS == 0:
        grad = x * 0
    for n in tl.static_range(8, 0, -1):
        if ORDERS >> n:
            if ORDERS >> (n + 1):
                grad = grad * x
                if (ORDERS >> n) & 1:
                    grad = grad + slopes[place(ORDERS, n)] * (n / D)
            else:  # the highest order
                grad = slopes[place(ORDERS, n)] * (n / D)
    return grad
