from functools import partial

import numpy as np
import pytest
from joblib import Parallel
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mtmusic.audio.synthesis import STYLES
from mtmusic.data.labels import is_beat_synchronised, is_synthetic, read_affect_labels, read_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.datasets import demo
from mtmusic.datasets.demo import demo_corpus, make_demo_corpus
from mtmusic.datasets.validate import validate_folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("demo") / name for name in ("one", "two")]
    for folder in folders:
        make_demo_corpus(folder, seed=3, clips_a_genre=3, affect=6)
    return folders


def test_two_runs_of_one_seed_give_the_same_files(corpora):
    first, second = ({p.relative_to(f): p for p in f.rglob("*.*")} for f in corpora)
    assert first.keys() == second.keys()
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_the_four_folders_are_such_as_the_lab_has(corpora):
    root = corpora[0]
    for name, beat in (("fma_genre_spectrograms", False), ("fma_genre_spectrograms_beat", True)):
        train, test = (read_genre_labels(root / name, split) for split in ("train", "test"))
        assert train.classes == test.classes == tuple(sorted(STYLES))
        assert (len(train), len(test)) == (2 * len(STYLES), len(STYLES))
        assert is_beat_synchronised(root / name) is beat
        assert is_synthetic(root / name)
    for name in ("multitask_dataset", "multitask_dataset_beat"):
        clips = read_affect_labels(root / name)
        assert clips.tasks == ("valence", "energy", "danceability")
        assert not (root / name / "test_labels.txt").exists()
    full, beat = (read_array(root / n / "train" / "1.fused.full.npy") for n in
                  ("fma_genre_spectrograms", "fma_genre_spectrograms_beat"))  # fmt: skip
    assert full.shape == (140, 12 * 22050 // 512 + 1)
    assert beat.shape[1] < 60
    assert full[:128].max() == 0


def test_the_corpus_is_clean(corpora):
    for folder in sorted(corpora[0].iterdir()):
        assert validate_folder(folder).findings == ()


def test_label_files_spell_names_in_the_labs_ways(corpora):
    root = corpora[0]
    second_line = {
        "fma_genre_spectrograms/train_labels.txt": ".fused.full.npy.gz\t",
        "fma_genre_spectrograms/test_labels.txt": ".full.fused.npy.gz\t",
        "fma_genre_spectrograms_beat/train_labels.txt": ".beatsync.fused.npy.gz\t",
    }
    for name, spelling in second_line.items():
        assert spelling in (root / name).read_text().splitlines()[1]
    assert (root / "multitask_dataset/train_labels.txt").read_text().splitlines()[1].startswith("1,0.")


def test_genre_and_affect_clips_are_different_songs(corpora):
    root = corpora[0]
    genre, affect = (
        {p.read_bytes() for p in (root / n).rglob("*.npy")} for n in ("fma_genre_spectrograms", "multitask_dataset")
    )
    assert not genre & affect
    assert len(genre) == 3 * len(STYLES)


def test_the_corpus_is_made_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path))
    monkeypatch.setattr("mtmusic.datasets.demo.CLIPS_A_GENRE", 3)
    made = []
    monkeypatch.setattr(
        "mtmusic.datasets.demo.make_demo_corpus", lambda folder, seed: (made.append(seed), folder.mkdir())
    )
    assert demo_corpus(5) == demo_corpus(5)
    assert made == [5]
    assert demo_corpus(5).parent == tmp_path


def test_the_script_prints_the_folder_and_replaces_only_when_told(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "mtmusic.datasets.demo.make_demo_corpus", lambda folder, seed: make_demo_corpus(folder, seed, 3, affect=6)
    )
    main = script("make_demo_data").main
    assert main(["--out", str(tmp_path / "demo")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "demo")
    assert main(["--out", str(tmp_path / "demo")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert main(["--out", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_pooled_statistics_tell_most_genres_apart_but_not_all(tmp_path, monkeypatch):
    """The network has something to win: a support vector machine is right on more than half, and not on all."""
    monkeypatch.setattr(demo, "SECONDS", 6.0)
    monkeypatch.setattr(demo, "Parallel", partial(Parallel, backend="threading"))  # processes would make 12 s
    make_demo_corpus(tmp_path / "demo", seed=0, clips_a_genre=12, affect=0)
    folder = tmp_path / "demo" / "fma_genre_spectrograms_beat"
    clips = [read_genre_labels(folder, split) for split in ("train", "test")]
    mels = [read_array(path)[:128] for part in clips for path in part.paths]
    pooled = np.array([np.concatenate([mel.mean(axis=1), mel.std(axis=1)]) for mel in mels])
    targets = np.concatenate([part.targets for part in clips])
    scores = cross_val_score(make_pipeline(StandardScaler(), SVC()), pooled, targets, cv=4)
    assert 0.5 < scores.mean() < 0.92
