"""What is measured of a data folder, and what is wrong with it."""
