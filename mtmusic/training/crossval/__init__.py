"""Recipes and baselines on the same folds."""
