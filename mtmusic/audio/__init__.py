"""Sound to fused (140, frames) arrays. Knows no TensorFlow."""
