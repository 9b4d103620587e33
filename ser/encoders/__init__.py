"""Encoders between the frontend and the heads: (B, T, D) -> (B, T', D')."""
