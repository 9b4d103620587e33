"""Inference and scoring of held-out speakers (stage 5)."""
