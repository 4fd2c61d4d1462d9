import shutil

import numpy as np
import pytest

from mtmusic.data.pool import load_pool, pooled_clips
from mtmusic.errors import UserError
from tests.folders import write_tiny_affect_folder


def test_every_labelled_clip_of_every_split_is_there(genre_folder):
    clips, splits = pooled_clips(load_pool(genre_folder))
    assert len(clips) == 33
    assert [splits.count(split) for split in ("train", "test")] == [24, 9]
    assert clips.groups is None
    assert clips.classes == ("Blues", "Jazz", "Rock")


@pytest.mark.parametrize(
    "test_labels", ["Id,valence,energy,danceability\n", None, "Id,valence,energy,danceability\n1000,,,\n"]
)
def test_a_test_split_without_labels_is_left_out(affect_folder, test_labels):
    path = affect_folder / "test_labels.txt"
    if test_labels is not None:
        path.write_text(test_labels)
    clips, splits = pooled_clips(load_pool(affect_folder))
    assert len(clips) == 30
    assert {*splits} == {"train"}
    assert len(set(clips.groups)) == 15


def test_equal_contents_are_in_one_group_and_no_fault(tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", test_labels=True)
    shutil.copy(folder / "train" / "1.fused.full.npy", folder / "test" / "1000.fused.full.npy")
    data = load_pool(folder)
    assert data.findings == ()
    clips, _ = pooled_clips(data)
    group = dict(zip(clips.ids, clips.groups, strict=True))
    assert group["1"] == group["2"] == group["1000"] == group["1001"] != group["3"]
    assert len(set(clips.groups)) == 17


def test_equal_contents_are_grouped_without_a_file_of_groups_too(genre_folder):
    shutil.copy(genre_folder / "train" / "1.fused.full.npy", genre_folder / "test" / "1001.fused.full.npy")
    clips, _ = pooled_clips(load_pool(genre_folder))
    assert len(set(clips.groups)) == 32


def test_a_file_of_groups_stands_in_for_the_folders(affect_folder, tmp_path):
    (tmp_path / "mine.csv").write_text("id,group\n" + "".join(f"{i},{i % 5}\n" for i in range(1, 31)))
    clips, _ = pooled_clips(load_pool(affect_folder), tmp_path / "mine.csv")
    np.testing.assert_array_equal(clips.groups, [f"group {int(i) % 5}" for i in clips.ids])
    (tmp_path / "other.csv").write_text("id,group\n900,1\n")
    with pytest.raises(UserError, match=r"got none of their ids in .*other\.csv"):
        pooled_clips(load_pool(affect_folder), tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"Expected a file of id,group, got none: .*nowhere\.csv"):
        pooled_clips(load_pool(affect_folder), tmp_path / "nowhere.csv")


def test_a_class_that_train_lacks_is_known_all_the_same(genre_folder):
    path = genre_folder / "test_labels.txt"
    path.write_text(path.read_text().replace("Blues", "Folk"))
    assert load_pool(genre_folder).splits["train"].classes == ("Blues", "Folk", "Jazz", "Rock")
