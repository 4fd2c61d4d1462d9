"""Baselines for networks: the majority class or the train mean, and models on features that are not trained here."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from mtmusic.data.labels import Clips

INNER_FOLDS = 3
FEWEST_INNER = 20
"""With fewer clips, there is no inner cross-validation, and the middle setting is used."""

SVR_EPSILON = 0.05
"""Errors up to this count as 0, for labels in [0, 1]."""

GRIDS: Mapping[str, tuple[Callable[..., Any], str, tuple[float, ...]]] = {
    "svc": (SVC, "C", (1.0, 3.0, 10.0)),
    "svr": (lambda C: SVR(C=C, epsilon=SVR_EPSILON), "C", (0.03, 0.1, 0.3, 1.0)),
    "ridge": (Ridge, "alpha", (100.0, 300.0, 1000.0, 3000.0)),
}
"""For each model its class, its setting, and the values among which an inner cross-validation on the training part
chooses."""

ON_TRUNK = ("svc-trunk", "svr-trunk")
"""The models svc and svr on the pretrained trunk's features."""

GENRE_BASELINES, AFFECT_BASELINES = ("svc", "svc-trunk", "majority"), ("svr", "svr-trunk", "ridge", "mean")
CONSTANTS = ("majority", "mean")


def baseline_predictions(name: str, train: Clips, features: np.ndarray, test: np.ndarray, seed: int = 0) -> np.ndarray:
    """Predicts with a baseline: (clips, classes) with 1 for the predicted class, or (clips, tasks).

    Each task has its own model, which is trained on the clips with a label.
    features, test: features (clips, features) of `train` and of the clips to predict.
    """
    if name == "majority":
        return _one_hot(np.full(len(test), np.bincount(train.targets).argmax()), len(train.classes))
    if name == "mean":
        return np.tile(list(train.label_means().values()), (len(test), 1))
    if train.classes:
        model = fitted(name, features, train.targets, train.groups, seed)
        return _one_hot(model.predict(test), len(train.classes))
    columns = []
    for values in train.targets.T.astype(np.float64):
        known = ~np.isnan(values)
        groups = None if train.groups is None else train.groups[known]
        columns.append(fitted(name, features[known], values[known], groups, seed).predict(test))
    return np.stack(columns, axis=1)


def fitted(name: str, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None, seed: int) -> Any:
    """Fits a model from standardised features to targets. Grouped folds of these clips choose the setting."""
    make, setting, values = GRIDS[name.removesuffix("-trunk")]
    if not _can_choose(targets, groups):
        return make_pipeline(StandardScaler(), make(**{setting: values[len(values) // 2]})).fit(features, targets)
    pipeline = make_pipeline(StandardScaler(), make(**{setting: values[0]}))
    grid = {f"{pipeline.steps[-1][0]}__{setting}": values}
    search = GridSearchCV(pipeline, grid, cv=_inner_folds(targets, groups, seed))
    return search.fit(features, targets, groups=groups)


def _can_choose(targets: np.ndarray, groups: np.ndarray | None) -> bool:
    """Whether there are enough clips, and enough groups of each class, for the inner folds."""
    groups = np.arange(len(targets)) if groups is None else groups
    classes = targets if targets.dtype.kind == "i" else np.zeros(len(targets))
    fewest = min(len({*groups[classes == one]}) for one in {*classes})
    return len(targets) >= FEWEST_INNER and fewest >= INNER_FOLDS


def _inner_folds(targets: np.ndarray, groups: np.ndarray | None, seed: int) -> Any:
    if targets.dtype.kind == "i":
        return (StratifiedKFold if groups is None else StratifiedGroupKFold)(
            INNER_FOLDS, shuffle=True, random_state=seed
        )
    return KFold(INNER_FOLDS, shuffle=True, random_state=seed) if groups is None else GroupKFold(INNER_FOLDS)


def _one_hot(predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]
