"""Results tables, figures and pages, from what was scored (stage 6)."""
