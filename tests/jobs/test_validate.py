"""A fault planted in a good folder is found and named, and nothing else is said."""

import os
import shutil

import pytest

from mtmusic.jobs.validate import findings_table, validate_folder
from tests import faults
from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder

WARNINGS = {
    "constant chroma", "mostly silence", "silent clip", "deeper than -80 dB", "never at 0 dB", "array without row",
    "splits look swapped", "same content under two ids", "class shares differ", "class missing from test",
    "group in two splits", "id in two splits", "missing labels", "constant labels",
}  # fmt: skip


@pytest.fixture(scope="session")
def good_genre(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "genre_beat"
    return write_tiny_genre_folder(folder, ("Blues", "Jazz", "Pop", "Rock"), train=72, test=24)


@pytest.fixture(scope="session")
def good_affect(tmp_path_factory):
    return write_tiny_affect_folder(tmp_path_factory.mktemp("good") / "affect_beat", train=60, test=20)


def planted(folder, to, plant):
    shutil.copytree(folder, to, copy_function=os.link)
    for path in to.rglob("*.txt"):  # a link that is written to would change the untouched folder
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    plant(to)
    return to


def named(folder):
    return {finding.name: finding for finding in validate_folder(folder).findings}


def test_good_folders_are_clean(good_genre, good_affect):
    for folder in (good_genre, good_affect):
        assert named(folder) == {}
        assert findings_table(validate_folder(folder)).endswith("Nothing found")


@pytest.mark.parametrize("name", faults.GENRE_FAULTS | faults.ARRAY_FAULTS)
def test_a_fault_of_a_genre_folder_is_found_alone(good_genre, tmp_path, name):
    plant = (faults.GENRE_FAULTS | faults.ARRAY_FAULTS)[name]
    found = named(planted(good_genre, tmp_path / "genre_beat", plant))
    assert list(found) == [name]
    assert found[name].error == (name not in WARNINGS)


@pytest.mark.parametrize("name", faults.AFFECT_FAULTS | faults.ARRAY_FAULTS)
def test_a_fault_of_an_affect_folder_is_found_alone(good_affect, tmp_path, name):
    plant = (faults.AFFECT_FAULTS | faults.ARRAY_FAULTS)[name]
    found = named(planted(good_affect, tmp_path / "affect_beat", plant))
    assert list(found) == [name]
    assert found[name].error == (name not in WARNINGS)
