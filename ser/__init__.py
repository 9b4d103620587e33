"""Multi-task speech emotion recognition: data, units, features, training and scoring."""
