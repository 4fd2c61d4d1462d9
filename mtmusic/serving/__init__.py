"""Predicts songs with saved models."""
