"""Scores, plots and reports of predictions."""
