"""Command lines. Each parses its options and calls one function of the package."""
