"""A fault planted in a good folder is found and named, and nothing else is said."""

import json
import os
import re
import shutil
import sys

import pytest

from mtmusic.data.folder import LoadOptions, load_genre_data
from mtmusic.data.labels import label_path
from mtmusic.datasets import validate
from mtmusic.datasets.validate import findings_table, validate_folder, write_findings_json, write_findings_page
from mtmusic.errors import UserError
from tests import faults
from tests.folders import needs_tfdv, write_tiny_affect_folder, write_tiny_genre_folder

WARNINGS = {
    "constant chroma", "mostly silence", "silent clip", "deeper than -80 dB", "never at 0 dB", "array without row",
    "splits look swapped", "same content under two ids", "class shares differ", "class missing from test",
    "test split looks cut", "group in two splits", "id in two splits", "missing labels", "constant labels",
}  # fmt: skip


@pytest.fixture(scope="session")
def good_genre(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "genre_beat"
    return write_tiny_genre_folder(folder, ("Blues", "Jazz", "Pop", "Rock"), train=72, test=24)


@pytest.fixture(scope="session")
def good_affect(tmp_path_factory):
    return write_tiny_affect_folder(tmp_path_factory.mktemp("good") / "affect_beat", train=60, test=20)


@pytest.fixture(scope="session")
def good_logmel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "logmel"
    return write_tiny_genre_folder(folder, ("Blues", "Jazz", "Pop", "Rock"), train=36, test=12, feature="logmel")


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


def test_good_folders_are_clean(good_genre, good_affect, good_logmel):
    for folder in (good_genre, good_affect, good_logmel):
        assert named(folder) == {}
        assert findings_table(validate_folder(folder)).splitlines()[1] == "Nothing found"


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


@pytest.mark.parametrize("name", faults.GENRE_FAULTS | faults.LOGMEL_FAULTS)
def test_a_fault_of_a_logmel_folder_is_found_alone(good_logmel, tmp_path, name):
    plant = (faults.GENRE_FAULTS | faults.LOGMEL_FAULTS)[name]
    found = named(planted(good_logmel, tmp_path / "logmel", plant))
    assert list(found) == [name]
    assert found[name].error == (name not in WARNINGS)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", faults.LOGMEL_CHANGES)
def test_a_fault_in_a_whole_logmel_split_brings_no_other(good_logmel, tmp_path, split, name):
    plant = faults.arrays(faults.LOGMEL_CHANGES[name], split, every=1)
    found = named(planted(good_logmel, tmp_path / "logmel", plant))
    assert list(found) == [name]
    assert len(found[name].clips) == {"train": 144, "test": 48}[split]


@pytest.mark.real
@pytest.mark.parametrize("name", ["silent clip", "power, not its logarithm", "unreadable array", "missing labels"])
def test_a_fault_planted_in_real_logmel_is_found_alone(real_data, tmp_path, name):
    folder = tmp_path / "moods"
    shutil.copytree(real_data / "moods", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)  # it may be read-only
    (faults.LOGMEL_FAULTS | faults.AFFECT_FAULTS)[name](folder)
    assert list(named(folder)) == [name]


def test_a_logmel_folder_is_reported_in_its_own_units(good_logmel, tmp_path):
    found = validate_folder(good_logmel)
    assert findings_table(found).splitlines()[0] == f"{good_logmel}: 144 train, 48 test clips, logmel; genre"
    write_findings_page(tmp_path / "data.html", found, "")
    page = (tmp_path / "data.html").read_text()
    assert "chroma_min" not in page
    assert '<tr><th scope="row">mel_max</th><td>train</td><td>144</td>' in page
    write_findings_json(tmp_path / "data.json", found)
    content = json.loads((tmp_path / "data.json").read_text())
    assert (content["feature"], content["beat"]) == ("logmel", False)


@needs_tfdv
def test_a_logmel_schema_is_inferred_and_used(good_logmel, tmp_path):
    path = tmp_path / "schema.pbtxt"
    assert validate_folder(good_logmel, infer_schema=path).findings == ()
    assert "chroma" not in path.read_text()
    assert validate_folder(good_logmel, schema=path).findings == ()


@pytest.mark.real
@pytest.mark.parametrize(
    ("base", "name"),
    [
        *(("fma_genre_spectrograms_beat", name) for name in faults.GENRE_FAULTS | faults.ARRAY_FAULTS),
        *(("multitask_dataset_beat", name) for name in faults.AFFECT_FAULTS),
    ],
)
def test_a_fault_planted_in_real_data_is_found_alone(real_data, tmp_path, base, name):
    every = faults.GENRE_FAULTS | faults.ARRAY_FAULTS if "genre" in base else faults.AFFECT_FAULTS
    folder = tmp_path / base
    shutil.copytree(real_data / "emotify" / base, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)  # it may be read-only
    every[name](folder)
    assert list(named(folder)) == [name]


@pytest.mark.real
@pytest.mark.parametrize(
    "base",
    [
        "emotify/fma_genre_spectrograms",
        "emotify/fma_genre_spectrograms_beat",
        "emotify/multitask_dataset_beat",
        "emotify/multitask_dataset",
        "moods",
    ],
)
def test_real_folders_are_clean(real_data, base):
    assert named(real_data / base) == {}


EVERY = slice(0, None)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", faults.CHANGES)
def test_a_fault_in_a_whole_split_brings_no_other(good_genre, tmp_path, split, name):
    folder = planted(good_genre, tmp_path / "genre_beat", faults.arrays(faults.CHANGES[name], split, every=1))
    found = named(folder)
    assert list(found) == [name]
    assert len(found[name].clips) == {"train": 288, "test": 96}[split]


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (faults.cells(EVERY, lambda row: [row[0], row[1].replace("Rock", "Rcok")]), "unknown class"),
        (faults.cells(EVERY, lambda row: [row[0], row[1].replace("Rock", "Rcok")], "test"), "unknown class"),
        (faults.cells(EVERY, lambda row: row[::-1]), "shifted columns"),
        (faults.cells(EVERY, lambda row: [*row, "x"]), "shifted columns"),
        (faults.edit("test", lambda rows: rows[::2]), "array without row"),
        (faults.edit("test", lambda rows: rows[:48]), "array without row"),
        (lambda folder: label_path(folder, "test").unlink(), "split without labels"),
        (faults.edit("test", lambda rows: []), "split without labels"),
    ],
    ids=["a class of train", "a class of test", "swapped", "a column more", "half", "cut", "no labels", "header"],
)
def test_a_fault_of_many_genre_rows_brings_no_other(good_genre, tmp_path, plant, name):
    assert list(named(planted(good_genre, tmp_path / "genre_beat", plant))) == [name]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda row: [row[0], *(str(100 * float(cell)) for cell in row[1:])], "label out of range"),
        (lambda row: [row[0], *("nan" for _ in row[1:])], "missing labels"),
        (lambda row: row[:-1], "shifted columns"),
        (lambda row: ["7", *row], "shifted columns"),
    ],
    ids=["percent", "nan", "a column less", "an index"],
)
def test_a_fault_of_all_affect_rows_brings_no_other(good_affect, tmp_path, change, name):
    folder = planted(good_affect, tmp_path / "affect_beat", faults.cells(EVERY, change))
    assert list(named(folder)) == [name]
    write_findings_page(tmp_path / "data.html", validate_folder(folder), "")


@needs_tfdv
def test_a_test_split_made_otherwise_is_skewed(good_affect, tmp_path):
    """Halved levels keep every array within what the format allows."""
    plant = faults.arrays(faults.mel(lambda x: x / 2), split="test", every=1)
    found = named(planted(good_affect, tmp_path / "affect_beat", plant))
    assert set(found) == {"skew of mel_mean", "skew of mel_std"}
    assert sorted(found["skew of mel_mean"].clips) == [f"test/{i}" for i in range(1000, 1020)]
    assert not found["skew of mel_mean"].error


@needs_tfdv
def test_labels_of_train_and_test_are_compared(tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=60, test=40, test_labels=True)
    assert named(folder) == {}
    faults.cells(slice(0, None), lambda row: [*row[:-1], f"{float(row[-1]) / 9:.3f}"], "test")(folder)
    assert list(named(folder)) == ["skew of danceability"]


def test_other_classes_and_tasks_are_no_anomaly(tmp_path):
    genre = write_tiny_genre_folder(tmp_path / "genre_beat", ("Polka", "Ska"))
    with pytest.raises(UserError, match=r'got Polka, Ska in .*: `classes="all"` makes each genre a class'):
        validate_folder(genre)
    assert validate_folder(genre, classes="all").findings == ()
    assert named(write_tiny_affect_folder(tmp_path / "affect_beat", ("calmness", "power"))) == {}


def test_a_validation_split_is_looked_at_too(good_genre, tmp_path):
    folder = planted(good_genre, tmp_path / "genre_beat", lambda folder: None)
    shutil.copytree(folder / "test", folder / "validation", copy_function=os.link)
    shutil.copy(label_path(folder, "test"), label_path(folder, "validation"))
    found = named(folder)
    assert list(found) == ["clip in two splits"]
    assert len(found["clip in two splits"].clips) == 2 * 96


@needs_tfdv
def test_a_schema_of_the_user_is_used(good_genre, tmp_path):
    path = tmp_path / "schema.pbtxt"
    assert validate_folder(good_genre, infer_schema=path).findings == ()
    path.write_text(path.read_text().replace('value: "Rock"', ""))
    found = validate_folder(good_genre, schema=path).findings
    assert [finding.name for finding in found] == ["schema: genre", "schema: genre"]  # in train and in test
    assert {len(finding.clips) for finding in found} == {72, 24}
    assert "Rock" in found[0].message
    path.write_text("feature {")
    with pytest.raises(UserError, match=r"Expected a schema of TensorFlow Data Validation in text format, got .*pbtxt"):
        validate_folder(good_genre, schema=path)


def test_strict_calls_warnings_errors(good_genre, tmp_path):
    folder = planted(good_genre, tmp_path / "genre_beat", faults.swap)
    assert [finding.error for finding in validate_folder(folder).findings] == [False]
    assert [finding.error for finding in validate_folder(folder, strict=True).findings] == [True]


def test_the_worst_comes_first(good_genre, tmp_path):
    folder = planted(good_genre, tmp_path / "genre_beat", faults.ARRAY_FAULTS["constant chroma"])
    faults.truncate(folder)
    lines = findings_table(validate_folder(folder)).splitlines()
    assert lines[0] == f"{folder}: 288 train, 96 test clips, beat-synchronised; genre"
    assert lines[1].split() == ["error", "unreadable", "array", "1", "train/4"]
    assert lines[3].split() == ["warning", "constant", "chroma", "29", "train/1,", "train/11,", "train/21,", "..."]
    assert "Use the feature mel" in lines[4]


def test_the_json_holds_every_clip(good_genre, tmp_path):
    folder = planted(good_genre, tmp_path / "genre_beat", faults.ARRAY_FAULTS["constant chroma"])
    write_findings_json(tmp_path / "data.json", validate_folder(folder))
    content = json.loads((tmp_path / "data.json").read_text())
    assert (content["clips"], content["beat"], content["labels"]) == ({"train": 288, "test": 96}, True, ["genre"])
    [finding] = content["findings"]
    assert (finding["kind"], finding["name"]) == ("warning", "constant chroma")
    assert finding["clips"] == [f"train/{i}" for i in range(1, 289, 10)]
    assert finding["examples"] == ["train/1", "train/11", "train/21"]


def test_the_page_shows_findings_and_columns(good_affect, tmp_path):
    folder = planted(good_affect, tmp_path / "affect_beat", faults.AFFECT_FAULTS["missing labels"])
    write_findings_page(tmp_path / "data.html", validate_folder(folder), "mtmusic validate-data <x>")
    page = (tmp_path / "data.html").read_text()
    assert "missing labels: warning, 30 clips" in page
    assert "mtmusic validate-data &lt;x&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    assert '<tr><th scope="row">danceability</th><td>train</td><td>30</td>' in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.fixture
def without_tfdv(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_data_validation", None)


def test_without_tfdv_all_other_checks_are_made(good_genre, good_affect, good_logmel, tmp_path, without_tfdv):
    for folder in (good_genre, good_affect, good_logmel):
        assert named(folder) == {}
    for name in faults.GENRE_FAULTS | faults.ARRAY_FAULTS:
        plant = (faults.GENRE_FAULTS | faults.ARRAY_FAULTS)[name]
        found = named(planted(good_genre, tmp_path / name / "genre_beat", plant))
        assert list(found) == [name]
        assert found[name].error == (name not in WARNINGS)
    assert load_genre_data(LoadOptions(good_genre)).findings == ()  # a training's


def test_without_tfdv_one_line_says_what_was_skipped(good_genre, tmp_path, without_tfdv):
    found = validate_folder(good_genre)
    assert re.match(r"The comparison of columns .* needs TensorFlow Data Validation", found.skipped)
    assert "\n" not in found.skipped
    assert findings_table(found).splitlines()[1:] == ["Nothing found", f"skipped  {found.skipped}"]
    write_findings_json(tmp_path / "data.json", found)
    assert json.loads((tmp_path / "data.json").read_text())["skipped"] == found.skipped
    write_findings_page(tmp_path / "data.html", found, "")
    page = (tmp_path / "data.html").read_text()
    assert page.count("needs TensorFlow Data Validation") == page.count("data:image/png;base64,") == 1
    assert '<tr><th scope="row">mel_max</th><td>train</td><td>288</td>' in page


@pytest.mark.parametrize("name", ["schema", "infer_schema"])
def test_without_tfdv_schemas_are_refused_before_any_work(good_genre, tmp_path, monkeypatch, without_tfdv, name):
    monkeypatch.setattr(validate, "_checked_splits", None)  # the first work
    with pytest.raises(UserError, match=rf"^`{name}` needs TensorFlow Data Validation"):
        validate_folder(good_genre, **{name: tmp_path / "schema.pbtxt"})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_data_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        validate_folder(tmp_path / "none")
