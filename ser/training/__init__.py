"""ESPnet's task and trainer, and the training of the folds (stage 4)."""
