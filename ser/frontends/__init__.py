"""Frontends: (B, L) samples or (B, T, F) features -> (B, T', D) frames and their true lengths."""
