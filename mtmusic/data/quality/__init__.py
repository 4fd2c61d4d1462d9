"""Measures the arrays of a data folder, and checks them and the labels."""
