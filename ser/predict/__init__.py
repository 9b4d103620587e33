"""Apply trained models to new recordings."""
