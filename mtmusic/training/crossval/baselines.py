"""What a network has to beat: the majority class or the train mean, and models of features that are not learnt here."""

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
"""Clips below which the middle setting is taken instead of one chosen by an inner cross-validation."""

SVR_EPSILON = 0.05
"""Of labels in [0, 1]: what is that near counts as hit."""

GRIDS: Mapping[str, tuple[Callable[..., Any], str, tuple[float, ...]]] = {
    "svc": (SVC, "C", (1.0, 3.0, 10.0)),
    "svr": (lambda C: SVR(C=C, epsilon=SVR_EPSILON), "C", (0.03, 0.1, 0.3, 1.0)),
    "ridge": (Ridge, "alpha", (100.0, 300.0, 1000.0, 3000.0)),
}
"""Of each model: its class, and the setting that an inner cross-validation on the training part chooses."""

ON_TRUNK = ("svc-trunk", "svr-trunk")
"""The same models as svc and svr, on the pretrained trunk's features."""

GENRE_BASELINES, AFFECT_BASELINES = ("svc", "svc-trunk", "majority"), ("svr", "svr-trunk", "ridge", "mean")
CONSTANTS = ("majority", "mean")


def baseline_predictions(name: str, train: Clips, features: np.ndarray, test: np.ndarray, seed: int = 0) -> np.ndarray:
    """(clips, classes), 1 for the answer, or (clips, tasks), each task learnt alone from the clips that have a label.

    features, test: (clips, features) of `train` and of the clips to answer for.
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
    """Standardised features to targets; the setting is chosen by grouped folds of these clips alone."""
    make, setting, values = GRIDS[name.removesuffix("-trunk")]
    if not _can_choose(targets, groups):
        return make_pipeline(StandardScaler(), make(**{setting: values[len(values) // 2]})).fit(features, targets)
    pipeline = make_pipeline(StandardScaler(), make(**{setting: values[0]}))
    grid = {f"{pipeline.steps[-1][0]}__{setting}": values}
    search = GridSearchCV(pipeline, grid, cv=_inner_folds(targets, groups, seed))
    return search.fit(features, targets, groups=groups)


def _can_choose(targets: np.ndarray, groups: np.ndarray | None) -> bool:
    """Whether each inner fold can hold a group of each class."""
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
