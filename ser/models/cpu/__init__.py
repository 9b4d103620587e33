"""Kernels that make training on a CPU faster; ``fast`` of the speech encoder switches them."""
