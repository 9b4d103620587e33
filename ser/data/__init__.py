"""Data on disk between the stages: tables, audio, features and folds (stage 3)."""
