"""Reads arrays and label files, and makes batches. Does not know the models."""
