"""The networks, as torch modules that know nothing of corpora, folds or experiments."""
