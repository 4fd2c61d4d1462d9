"""Hold-out, k-fold and subsets. Splits are seeded and stratified, and a group's clips stay in one part."""

import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from mtmusic.data.labels import Clips
from mtmusic.errors import UserError

TARGET_BINS = 4


def hold_out(clips: Clips, fraction: float = 0.2, seed: int = 0) -> tuple[Clips, Clips]:
    """Splits clips in two.

    The split is stratified by class, or by quartile of the mean standardised target. A group's clips stay together.
    With groups the fraction is rounded to 1/k, because the part is one of k folds.

    Args:
        clips: Clips to split.
        fraction: Share of the clips in the second part, between 0 and 1.
        seed: Seed of the split.

    Returns:
        The clips that are kept, and the clips that are held out.

    Raises:
        UserError: The fraction is not between 0 and 1, or there are too few clips, classes or groups.

    Examples:
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> train, validation = mtmusic.hold_out(clips, fraction=0.25)
        >>> train.counts(), validation.counts()
        ({'Blues': 6, 'Jazz': 6, 'Rock': 6}, {'Blues': 2, 'Jazz': 2, 'Rock': 2})
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
    """Splits clips into folds, stratified as in `hold_out`. A group's clips stay in one fold.

    Args:
        clips: Clips to split.
        folds: Number of folds, 2 or more.
        seed: Seed of the split.

    Yields:
        For each fold, the clips of the other folds and the clips of the fold.

    Raises:
        UserError: There are too few clips, classes or groups.

    Examples:
        >>> from mtmusic.data.splits import k_fold
        >>> clips = mtmusic.read_affect_labels("data/affect_beat")
        >>> [(len(rest), len(fold)) for rest, fold in k_fold(clips, folds=3)]
        [(20, 10), (20, 10), (20, 10)]
    """
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
    """Selects a stratified part of the clips, with at least one clip of each class.

    Args:
        clips: Clips to select from.
        size: Number of clips. All clips are returned if there are not more than this.
        seed: Seed of the selection.

    Returns:
        The selected clips, in their order.

    Raises:
        UserError: `size` is smaller than the number of classes.

    Examples:
        >>> from mtmusic.data.splits import subset
        >>> subset(mtmusic.read_genre_labels("data/genre_beat"), 6).counts()
        {'Blues': 2, 'Jazz': 2, 'Rock': 2}
    """
    if size >= len(clips):
        return clips
    strata = stratification(clips)
    if size < len(set(strata)):
        raise UserError(f"Expected `subset` of {len(set(strata))} clips or more, one per class, got {size}")
    shuffled = np.random.default_rng(seed).permutation(len(clips))
    place = np.empty(len(clips))  # rank of each clip within its class, from 0 to 1
    for stratum in set(strata):
        members = shuffled[strata[shuffled] == stratum]
        place[members] = np.arange(len(members)) / len(members)
    return clips.take(np.sort(np.argsort(place, kind="stable")[:size]))


def stratification(clips: Clips) -> np.ndarray:
    """Returns the strata of `hold_out` and `k_fold`.

    Args:
        clips: Clips of genre or affect.

    Returns:
        The stratum of each clip `(clips,)` int: for genre its class, for affect the quartile of its mean standardised
        target. Missing labels are left out of the mean.

    Examples:
        >>> from mtmusic.data.splits import stratification
        >>> strata = stratification(mtmusic.read_affect_labels("data/affect_beat"))
        >>> np.bincount(strata).tolist()  # 30 clips in four quartiles
        [8, 7, 8, 7]
    """
    if clips.classes:
        return clips.targets
    targets = np.ma.masked_invalid(clips.targets)
    scores = (targets - targets.mean(axis=0)) / targets.std(axis=0)  # a task of equal labels is masked too
    means = np.ma.filled(scores.mean(axis=1), 0)
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return ranks * TARGET_BINS // len(clips)


def _grouped_hold_out(clips: Clips, fraction: float, seed: int) -> tuple[Clips, Clips]:
    """Holds out one of 1/fraction folds: the first for which both parts have every class."""
    purpose = f"a hold-out of {fraction:g} that keeps groups together"
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
