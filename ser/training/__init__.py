"""ESPnet task and trainer, and training of the folds (stage 4)."""
