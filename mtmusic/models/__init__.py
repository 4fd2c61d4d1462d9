"""Batches to predictions. Importing it registers our classes, so that keras.models.load_model opens every model."""

import mtmusic.models.convolution
import mtmusic.models.frontend
import mtmusic.models.heads
import mtmusic.models.kernel
import mtmusic.models.layers
import mtmusic.models.losses
import mtmusic.models.recurrent
import mtmusic.models.statistics  # noqa: F401
