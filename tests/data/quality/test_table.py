"""A row a clip, with what its labels and its array say."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mtmusic.data.quality.checked_split import checked_affect_split, checked_genre_split, checked_unlabelled_split
from mtmusic.data.quality.table import clip_table, label_columns

DataFolder = Callable[..., Path]
SaveArray = Callable[..., Path]


def test_a_genre_folder_has_a_row_a_clip(data_folder: DataFolder, save_array: SaveArray) -> None:
    folder = data_folder("Id\tGenre\n2\tRock\n1\tPop\n3\tRock\n", [1, 2])
    save_array(folder / "train" / "3.fused.full.npy", np.zeros((128, 5)))
    (folder / "groups.csv").write_text("id,group\n1,a\n")
    splits = {"train": checked_genre_split(folder, "train")}
    second, first, third = clip_table(splits)
    assert label_columns(splits) == ("genre",)
    assert (first["id"], first["split"], first["genre"], first["group"]) == ("1", "train", "Pop", "group a")
    assert (first["rows"], first["frames"], first["dtype"], first["problem"]) == (140, 3, "float32", None)
    assert (second["group"], len(second["content"])) == ("clip 2", 32)
    assert (third["rows"], third["problem"]) == (128, "wrong shape")
    assert math.isnan(third["mel_max"])


def test_an_affect_folder_has_a_column_a_task(data_folder: DataFolder) -> None:
    folder = data_folder("Id,valence,energy\n1,0.25,\n", [1])
    data_folder("", [8, 7], split="test")
    splits = {"train": checked_affect_split(folder, "train"), "test": checked_unlabelled_split(folder, "test")}
    labelled, *unlabelled = clip_table(splits)
    assert label_columns(splits) == ("valence", "energy")
    assert labelled["valence"] == 0.25
    assert math.isnan(labelled["energy"])
    assert [row["id"] for row in unlabelled] == ["7", "8"]
    assert "valence" not in unlabelled[0]
