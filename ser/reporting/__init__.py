"""Results tables, figures and pages from scores (stage 6)."""
