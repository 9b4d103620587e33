"""Networks as torch modules, independent of corpora, folds and experiments."""
