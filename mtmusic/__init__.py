"""Genre and affect of music, from mel spectrograms and chromagrams, in Keras and TensorFlow.

Importing the package costs nothing: each wing (``mtmusic.audio``, ``data``, ``models``, ``evaluation``,
``serving``) imports what it needs when it is imported itself.
"""

__version__ = "0.1.0"
