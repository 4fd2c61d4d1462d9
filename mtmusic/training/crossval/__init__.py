"""Cross-validation of recipes and baselines on the same folds."""
