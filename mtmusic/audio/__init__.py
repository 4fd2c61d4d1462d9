"""Turns audio into arrays of features. Does not import TensorFlow."""
