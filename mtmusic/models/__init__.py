"""The models. Importing this package registers its classes, so that keras.models.load_model opens every model."""
# ruff: noqa: F401

import mtmusic.models.clip_statistics
import mtmusic.models.cpu.convolution
import mtmusic.models.cpu.lstm
import mtmusic.models.cpu.normalization
import mtmusic.models.frontend
import mtmusic.models.heads
import mtmusic.models.layers
import mtmusic.models.losses
import mtmusic.models.musicnn
import mtmusic.models.nystroem
