"""Kernels for faster training on a CPU; ``fast`` of the speech encoder switches them."""
