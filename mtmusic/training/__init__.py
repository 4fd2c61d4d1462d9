"""A data folder to a run: where data, models and evaluation meet."""
