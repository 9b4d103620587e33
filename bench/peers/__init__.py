"""Training steps that other people publish, one module each."""
