"""Hold-out, k-fold and subsets: seeded, stratified, a group's clips always in one part."""

import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from mtmusic.data.labels import Clips
from mtmusic.errors import UserError

TARGET_BINS = 4


def hold_out(clips: Clips, fraction: float = 0.2, seed: int = 0) -> tuple[Clips, Clips]:
    """Splits the clips in two; the second has about `fraction` of them.

    Stratified by class, or by quartile of the mean standardised target. With groups the fraction is rounded to
    1/k: the split is then one of k folds. Raises UserError where there are too few clips, classes or groups.
    """
    if not 0 < fraction < 1:
        raise UserError(f"Expected a share between 0 and 1 for the hold-out, got {fraction:g}")
    if clips.groups is not None:
        return _grouped_hold_out(clips, fraction, seed)
    strata = stratification(clips)
    try:
        kept, held = train_test_split(np.arange(len(clips)), test_size=fraction, stratify=strata, random_state=seed)
    except ValueError as error:
        raise _too_few(clips, f"a hold-out of {fraction:g}") from error
    _require_every_class(clips, kept, held, f"a hold-out of {fraction:g}")
    return clips.take(np.sort(kept)), clips.take(np.sort(held))


def k_fold(clips: Clips, folds: int = 5, seed: int = 0) -> Iterator[tuple[Clips, Clips]]:
    """Yields (rest, fold) `folds` times; every clip is in one fold. Raises UserError where there are too few."""
    strata = stratification(clips)
    smallest = int(np.bincount(strata).min(initial=len(clips), where=np.bincount(strata) > 0))
    groups = len(clips) if clips.groups is None else len(set(clips.groups))
    if folds < 2 or smallest < folds or groups < folds:
        raise _too_few(clips, f"{folds} folds")
    for rest, fold in _folds(clips, folds, seed):
        yield clips.take(rest), clips.take(fold)


def _folds(clips: Clips, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedKFold if clips.groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        yield from splitter(folds, shuffle=True, random_state=seed).split(
            np.zeros(len(clips)), stratification(clips), clips.groups
        )


def subset(clips: Clips, size: int, seed: int = 0) -> Clips:
    """`size` of the clips, stratified, each class with one at least; all of them where there are no more.

    Raises UserError below one a class.
    """
    if size >= len(clips):
        return clips
    strata = stratification(clips)
    if size < len(set(strata)):
        raise UserError(f"Expected `subset` of {len(set(strata))} clips or more, one a class, got {size}")
    shuffled = np.random.default_rng(seed).permutation(len(clips))
    place = np.empty(len(clips))  # 0 for the first clip of each class, towards 1 for its last
    for stratum in set(strata):
        members = shuffled[strata[shuffled] == stratum]
        place[members] = np.arange(len(members)) / len(members)
    return clips.take(np.sort(np.argsort(place, kind="stable")[:size]))


def stratification(clips: Clips) -> np.ndarray:
    """(clips,) int: the class, or the quartile of the clip's mean standardised target (missing ones left out)."""
    if clips.classes:
        return clips.targets
    targets = np.ma.masked_invalid(clips.targets)
    scores = (targets - targets.mean(axis=0)) / targets.std(axis=0)  # a task without spread is masked too
    means = np.ma.filled(scores.mean(axis=1), 0)
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return ranks * TARGET_BINS // len(clips)


def _grouped_hold_out(clips: Clips, fraction: float, seed: int) -> tuple[Clips, Clips]:
    """The first of 1/fraction folds in which both parts hold every class."""
    purpose = f"a hold-out of {fraction:g} that parts no group"
    folds = max(2, round(1 / fraction))
    if (
        len(set(clips.groups if clips.groups is not None else ())) < folds
        or np.bincount(stratification(clips)).max() < folds
    ):
        raise _too_few(clips, purpose)
    for kept, held in _folds(clips, folds, seed):
        if not clips.classes or set(clips.targets[kept]) == set(clips.targets[held]) == set(clips.targets):
            return clips.take(kept), clips.take(held)
    raise _too_few(clips, purpose)


def _require_every_class(clips: Clips, kept: np.ndarray, held: np.ndarray, purpose: str) -> None:
    present = set(clips.targets) if clips.classes else set()
    if present and not set(clips.targets[kept]) == set(clips.targets[held]) == present:
        raise _too_few(clips, purpose)


def _too_few(clips: Clips, purpose: str) -> UserError:
    groups = "" if clips.groups is None else f" in {len(set(clips.groups))} groups"
    counts = ", ".join(f"{name} {count}" for name, count in clips.counts().items())
    return UserError(f"Too few clips for {purpose}: {len(clips)}{groups} ({counts}); give more clips, or another share")
