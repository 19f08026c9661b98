"""Exact integer arithmetic on prices: products that would overflow int64 are split, never rounded on the way.

Limits: quantities up to 2^53 units, fractions up to 1e10 in 1/SCALE, Σ price·quantity up to 2^62 (see lower.py, which checks them).
"""

from __future__ import annotations

from .jit import kernel, rare
from .rows import SCALE


@kernel
def floor_rate(value, numerator):
    """floor(value · numerator / SCALE); `value` may be negative, `numerator` may not."""
    whole = value // SCALE
    return whole * numerator + (value - whole * SCALE) * numerator // SCALE


@kernel
def ceil_rate(value, numerator):
    """ceil(value · numerator / SCALE)."""
    return -floor_rate(-value, numerator)


@rare
def multiply_divide(a, b, divisor):
    """floor(a · b / divisor) and the remainder, for 0 ≤ a < divisor ≤ 2^53 and 0 ≤ b < 2^36, nine bits of b at a time."""
    quotient, remainder = 0, 0
    for shift in (27, 18, 9, 0):
        remainder = remainder * 512 + a * ((b >> shift) & 511)
        quotient = quotient * 512 + remainder // divisor
        remainder %= divisor
    return quotient, remainder


@rare
def share(pool, size, whole):
    """floor(pool · size / whole), for sizes up to 1e10."""
    if pool < 1 << 29:
        return pool * size // whole
    return pool // whole * size + multiply_divide(pool % whole, size, whole)[0]


@rare
def ratio(quantity, denominator, up, cost, numerator, cost2, numerator2, cost3, numerator3):
    """Σ costᵢ · numeratorᵢ / (quantity · denominator), rounded down, or up if `up`."""
    part, rest = multiply_divide(cost % quantity, numerator, quantity)
    part2, rest2 = multiply_divide(cost2 % quantity, numerator2, quantity)
    part3, rest3 = multiply_divide(cost3 % quantity, numerator3, quantity)
    price, price2, price3 = cost // quantity, cost2 // quantity, cost3 // quantity
    rest += rest2 + rest3
    small = price % denominator * numerator + price2 % denominator * numerator2 + price3 % denominator * numerator3
    small += part + part2 + part3 + rest // quantity
    result = price // denominator * numerator + price2 // denominator * numerator2 + price3 // denominator * numerator3
    result += small // denominator
    exact = rest % quantity == 0 and small % denominator == 0
    return result if exact or not up else result + 1
