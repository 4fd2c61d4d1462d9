import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from mtmusic.data.labels import Clips
from mtmusic.training.crossval.baselines import GRIDS, baseline_predictions, fitted

RNG = np.random.default_rng(0)
FEATURES, TEST = RNG.normal(size=(16, 6)), RNG.normal(size=(5, 6))


def clips(targets: np.ndarray, **names) -> Clips:
    return Clips(tuple(map(str, range(len(targets)))), (), targets, **names)


def test_svc_answers_as_scikit_learns_does():
    genre = clips(np.arange(16) % 3, classes=("a", "b", "c"))
    answers = baseline_predictions("svc", genre, FEATURES, TEST)
    direct = make_pipeline(StandardScaler(), SVC(C=3)).fit(FEATURES, genre.targets).predict(TEST)
    np.testing.assert_array_equal(answers.argmax(axis=1), direct)
    np.testing.assert_array_equal(answers.sum(axis=1), 1)


def test_a_baseline_on_the_trunk_has_the_settings_of_the_one_on_statistics():
    genre = clips(np.arange(16) % 3, classes=("a", "b", "c"))
    on_trunk, plain = (baseline_predictions(name, genre, FEATURES, TEST) for name in ("svc-trunk", "svc"))
    np.testing.assert_array_equal(on_trunk, plain)


def test_each_task_is_learnt_from_the_clips_that_have_its_label():
    targets = RNG.uniform(0, 1, (16, 2)).astype("float32")
    targets[:4, 1] = np.nan
    answers = baseline_predictions("svr", clips(targets, tasks=("a", "b")), FEATURES, TEST)
    direct = make_pipeline(StandardScaler(), SVR(C=0.3, epsilon=0.05)).fit(FEATURES[4:], targets[4:, 1].astype(float))
    np.testing.assert_allclose(answers[:, 1], direct.predict(TEST))


def test_the_majority_and_the_mean_are_those_of_the_training_part():
    genre = clips(np.array([0, 2, 2, 1]), classes=("a", "b", "c"))
    np.testing.assert_array_equal(baseline_predictions("majority", genre, FEATURES[:4], TEST), [[0, 0, 1]] * 5)
    affect = clips(np.array([[0.2], [0.6], [np.nan]], "float32"), tasks=("a",))
    np.testing.assert_allclose(baseline_predictions("mean", affect, FEATURES[:3], TEST), [[0.4]] * 5, rtol=1e-6)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_the_setting_is_chosen_by_inner_folds_that_part_no_group(name, grouped):
    features = RNG.normal(size=(40, 4))
    targets = (features[:, 0] > 0).astype(int) if name == "svc" else features[:, 0]
    groups = np.repeat(np.arange(20), 2).astype(str) if grouped else None
    search = fitted(name, features, targets, groups, seed=0)
    _, setting, values = GRIDS[name]
    assert search.best_params_[f"{name}__{setting}"] in values
    for rest, held in search.cv.split(features, targets, groups) if grouped else ():
        assert not {*groups[rest]} & {*groups[held]}


def test_a_class_of_one_group_leaves_nothing_to_choose_by():
    """An inner fold would have to learn without it; a warning would fail here."""
    targets, groups = np.repeat([0, 1], [18, 6]), np.array([*map(str, range(18)), *["one"] * 6])
    features = np.random.default_rng(1).normal(size=(24, 6))
    model = fitted("svc", features, targets, groups, 0)
    assert GRIDS["svc"][2][1] == model.steps[-1][1].C
