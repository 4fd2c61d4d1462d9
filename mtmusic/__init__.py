"""Genre and affect of music, from mel spectrograms and chromagrams, in Keras and TensorFlow.

Predict a song's tags, valence and arousal with the pretrained models:

    import mtmusic

    song = mtmusic.predict("song.mp3")
    song["tags"]["jazz"], song["valence"], song["arousal"]

Train a model on a data folder, and predict a song's genre with it:

    train, validation = mtmusic.hold_out(mtmusic.read_genre_labels("data/mine_beat", classes="all"))
    model = mtmusic.genre_classifier(mtmusic.lstm_backbone("mel"), train.classes)
    model.fit(
        mtmusic.make_dataset(train, shuffle=True),
        validation_data=mtmusic.make_dataset(validation),
        epochs=20,
        shuffle=False,
    )
    mtmusic.save_run(model, "saved_models/mine", train)
    mtmusic.Predictor("mine").predict("song.mp3")["genre"]

The names in `__all__` are imported when they are first used, so importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtmusic.data.labels import read_affect_labels, read_genre_labels
    from mtmusic.data.pipeline import make_dataset
    from mtmusic.data.splits import hold_out
    from mtmusic.models.backbones import cnn_backbone, lstm_backbone
    from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
    from mtmusic.models.savedmodel import export_savedmodel
    from mtmusic.models.saving import load_model
    from mtmusic.models.transfer import freeze, load_backbone
    from mtmusic.serving.predictor import Predictor, predict
    from mtmusic.serving.similar import similar
    from mtmusic.training.run_folder import save_run

__version__ = "0.2.0"
__all__ = [
    "Predictor",
    "affect_regressor",
    "cnn_backbone",
    "export_savedmodel",
    "freeze",
    "genre_classifier",
    "hold_out",
    "load_backbone",
    "load_model",
    "lstm_backbone",
    "make_dataset",
    "multitask_regressor",
    "predict",
    "read_affect_labels",
    "read_genre_labels",
    "save_run",
    "similar",
]

_MODULES = {
    "data.labels": ("read_affect_labels", "read_genre_labels"),
    "data.pipeline": ("make_dataset",),
    "data.splits": ("hold_out",),
    "models.backbones": ("cnn_backbone", "lstm_backbone"),
    "models.heads": ("affect_regressor", "genre_classifier", "multitask_regressor"),
    "models.savedmodel": ("export_savedmodel",),
    "models.saving": ("load_model",),
    "models.transfer": ("freeze", "load_backbone"),
    "serving.predictor": ("Predictor", "predict"),
    "serving.similar": ("similar",),
    "training.run_folder": ("save_run",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
