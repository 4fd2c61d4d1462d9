"""A saved model and a song to an answer."""
