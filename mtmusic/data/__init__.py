"""Arrays and label files to batches. Knows no Keras model."""
