"""Batches to predictions. Importing it registers our layers, so that keras.models.load_model opens every model."""

import mtmusic.models.frontend
import mtmusic.models.layers
import mtmusic.models.losses  # noqa: F401
