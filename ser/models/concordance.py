"""Lin's concordance correlation coefficient for floats, NumPy arrays and tensors."""

from typing import Any

MOMENTS = ("ref", "hyp", "ref2", "hyp2", "refhyp")  # sums of x, y, x x, y y, x y


def concordance(n: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> tuple[Any, Any]:
    """Numerator and denominator of CCC = 2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2).

    Lin (1989), Biometrics 45(1), with variances divided by n. If all values are equal, both are 0
    and CCC is undefined. ``n`` counts the pairs; ``x`` to ``xy`` are sums over them (MOMENTS).
    """
    x, y = x / n, y / n
    return 2 * (xy / n - x * y), xx / n - x * x + yy / n - y * y + (x - y) ** 2
