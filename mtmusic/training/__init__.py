"""Trainings, from a data folder to a run. Only this package uses data, models and evaluation together."""
