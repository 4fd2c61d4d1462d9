"""The page, parsed again: what it says, and that it stands alone."""

import base64
import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.evaluation.metrics import affect_report, genre_report
from mtmusic.evaluation.plots import confusion_matrix, learning_curves, save_figure
from mtmusic.evaluation.reports.run import write_report

CLASSES = ["Blues", "R&B", "Rock"]
EVIL = "<script>alert(1)</script>"
PREFIX = "data:image/png;base64,"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Cells of every table row by its first cell, images, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        self.words.append(data)

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0] == first)


@pytest.fixture
def card() -> dict:
    counts = {"Blues": 10, "R&B": 20, "Rock": 30}
    return {
        "task": "genre",
        "classes": CLASSES,
        "feature": "mel",
        "beat": True,
        "frames": 128,
        "backbone": "cnn",
        "command": "python scripts/train_genre.py --data 'my <songs>'",
        "seed": 7,
        "data": {
            "folder": "my <songs>",
            "demo": False,
            "fingerprint": "ab12cd",
            "clips": {"train": counts, "test": {"Blues": 1, "Rock": 3}},
        },
        "versions": {"mtmusic": "0.1.0", "keras": "3.15.1"},
        "metrics": {},
    }


def write_run(folder: Path, card: dict, metrics: dict) -> Path:
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def metrics() -> dict:
    true = np.repeat([0, 1, 2], 20)
    predicted = np.where(np.arange(60) % 3 == 0, 2, true)
    report = genre_report(true, predicted, CLASSES)
    return {"test": report, "epochs": 20, "best_epoch": 12, "seconds_per_epoch": 3.125}


@pytest.fixture
def run(tmp_path: Path, card: dict, metrics: dict) -> Path:
    write_run(tmp_path, card, metrics)
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,2.302585,2.4\n2,1.5,1.9\n")
    save_figure(confusion_matrix(np.eye(3, dtype=int), CLASSES), tmp_path / "figures" / "confusion_matrix.png")
    save_figure(learning_curves({"loss": [1.0]}, 1), tmp_path / "figures" / "learning_curves.png")
    save_figure(learning_curves({"loss": [1.0]}, 1), tmp_path / "figures" / 'an_"extra"_one.png')
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "true", "predicted", *CLASSES])
        for index in range(12):  # every one wrong, the later the surer
            writer.writerow([f"clip{index}", "test", "Rock", "R&B", 0.1, 0.5 + index / 100, 0.1])
        writer.writerow([EVIL, "test", "Rock", "Blues", 0.99, 0.0, 0.01])
        writer.writerow(["right", "test", "Rock", "Rock", 0.0, 0.0, 1.0])
        writer.writerow(["elsewhere", "validation", "Rock", "Blues", 1.0, 0.0, 0.0])
    return tmp_path


@pytest.fixture
def page(run: Path) -> Page:
    return Page(write_report(run))


def test_page_is_whole_and_stands_alone(run, page):
    assert (run / "report.html").is_file()
    assert page.open == []
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not page.tags & {"script", "link", "iframe", "a"}
    assert 'name="viewport"' in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_images_are_inside_and_described(run, page):
    shown = ["Learning curves", "Confusion matrix", 'an "extra" one']
    assert [image["alt"].split(".")[0] for image in page.images] == shown
    stems = ("learning_curves", "confusion_matrix", 'an_"extra"_one')
    for image, stem in zip(page.images, stems, strict=True):
        assert image["src"].startswith(PREFIX)
        content = base64.b64decode(image["src"].removeprefix(PREFIX), validate=True)
        assert content == (run / "figures" / f"{stem}.png").read_bytes()


def test_users_words_are_escaped(page):
    assert "<script" not in page.source
    assert page.row(EVIL) == [EVIL, "Rock", "Blues", "0.990"]
    assert "python scripts/train_genre.py --data 'my <songs>'" in page.words
    assert "R&amp;B" in page.source


def test_ten_mistakes_the_surest_first(page):
    start = page.rows.index(["id", "true", "predicted", "probability"]) + 1
    mistakes = page.rows[start : start + 10]
    assert [row[0] for row in mistakes] == [EVIL, *(f"clip{index}" for index in range(11, 2, -1))]
    assert mistakes[1][1:] == ["Rock", "R&B", "0.610"]
    assert "clip2" not in page.source
    assert "elsewhere" not in page.source


def test_results_by_split_and_class(page, metrics):
    test = metrics["test"]
    interval = f"{test['accuracy']:.3f} ({test['accuracy_low']:.3f} to {test['accuracy_high']:.3f})"
    assert page.row("test")[:3] == ["test", interval, f"{test['macro_f1']:.3f}"]
    blues = test["per_class"]["Blues"]
    assert ["Blues", f"{blues['precision']:.3f}", f"{blues['recall']:.3f}", f"{blues['f1']:.3f}", "20"] in page.rows


def test_data_seed_history_versions(page):
    assert ["R&B", "20", "0"] in page.rows
    assert page.row("all") == ["all", "60", "4"]
    assert page.row("keras") == ["keras", "3.15.1"]
    assert page.rows[page.rows.index(["epoch", "loss", "val_loss"]) + 1] == ["1", "2.303", "2.4"]
    text = " ".join("".join(page.words).split())
    assert "It was trained on the train clips of my <songs>. Its input is beat-synchronised mel, 128 frames." in text
    assert "Seed 7." in text
    assert "epochs: 20; best epoch: 12; seconds per epoch: 3.125" in text


def test_banner_for_the_demo_alone(page, run, card):
    assert "synthesised" not in page.source
    card["data"]["demo"] = True
    (run / "card.json").write_text(json.dumps(card))
    assert "synthesised music" in write_report(run).read_text()


def test_card_and_metrics_are_enough(tmp_path, card):
    page = Page(write_report(write_run(tmp_path, card, {})))
    assert page.images == []
    assert "Figures" not in page.words
    assert "Most confident mistakes" not in page.words


def test_affect_run(tmp_path, card):
    true = np.array([[0.1, np.nan], [0.5, np.nan], [0.4, 0.5], [0.9, 0.1]])
    with pytest.warns(RuntimeWarning, match="3 labelled clips or more, got 2"):
        scores = affect_report(true, true**2, ["valence", "energy"], {"valence": 0.5, "energy": 0.5})
    del card["classes"]
    card |= {"task": "affect", "targets": ["valence", "energy"], "beat": False}
    card["data"]["clips"] = {"train": 240, "test": 4}
    rows = ["id,split,true_valence,true_energy,valence,energy", "1,test,0.1,,0.2,0.5", "2,test,0.5,0.9,0.75,0.1"]
    (tmp_path / "predictions.csv").write_text("\n".join([*rows, "3,validation,0.5,0.5,0.5,0.5"]))
    page = Page(write_report(write_run(tmp_path, card, {"test": scores})))
    assert page.row("valence")[2] == f"{scores['per_task']['valence']['pearson']:.3f}"
    assert page.row("energy") == ["energy", "0.000", "-", "-", "-", "-", "2"]
    assert page.row("mean")[1].startswith("0.500 (")
    assert page.row("train") == ["train", "240"]
    assert "It predicts valence, energy." in " ".join(page.words)
    errors = page.rows[page.rows.index(["id", "task", "true", "predicted", "error"]) + 1 :][:3]
    assert errors == [
        ["2", "energy", "0.900", "0.100", "0.800"],
        ["2", "valence", "0.500", "0.750", "0.250"],
        ["1", "valence", "0.100", "0.200", "0.100"],
    ]
    assert "Largest errors" in page.words


def test_mistakes_have_the_names_of_their_songs_where_they_are_known(run):
    path = run / "predictions.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    named = [[*row[:2], f"Blues/{row[0]}.mp3" if number else "song", *row[2:]] for number, row in enumerate(rows)]
    path.write_text("\n".join(",".join(row) for row in named))
    page = Page(write_report(run))
    assert ["id", "song", "true", "predicted", "probability"] in page.rows
    assert page.row("clip11") == ["clip11", "Blues/clip11.mp3", "Rock", "R&B", "0.610"]


def test_not_a_runs_folder(tmp_path):
    with pytest.raises(UserError, match=r"Expected card\.json in .*give the folder of a finished run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("card.json", "{", r"Expected JSON in .*card\.json"),
        ("card.json", '{"task": "genre"}', r"Expected feature, beat, backbone, command, seed, data in .*card\.json"),
        ("metrics.json", "", r"Expected JSON in .*metrics\.json"),
        ("predictions.csv", "id,split\n1,test\n", r"Expected id, split, true, .*predictions\.csv.*'true'"),
        ("predictions.csv", "id,split,true,predicted,a\n1,test,b,a,high\n", r"predictions\.csv.*high"),
    ],
)
def test_broken_files_are_named_and_the_old_page_stays(run, name, content, message):
    (run / "report.html").write_text("the old page")
    (run / name).write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(run)
    assert (run / "report.html").read_text() == "the old page"


@pytest.fixture
def affect_run(tmp_path: Path, card: dict) -> Path:
    """A transferred multitask run with learned weights, beside another run."""
    rng = np.random.default_rng(0)
    true = rng.random((30, 2))
    scores = affect_report(
        true, true + rng.normal(0, 0.3, true.shape), ["valence", "energy"], {"valence": 0.5, "energy": 0.5}
    )
    del card["classes"]
    card |= {"task": "affect", "targets": ["valence", "energy"]}
    card["source"] = {"run": "saved_models/genre_cnn", "task": "genre", "test_clips_learnt": ["7", "<9>"]}
    card["data"] |= {"clips": {"train": 240, "test": 30}, "labels": {"train": {"valence": 240, "energy": 200}}}
    card["data"]["labels"]["test"] = {"valence": 30, "energy": 29}
    learned = {"weights": {"valence": 8.0, "energy": 12.5}, "log_variances": {"valence": -4.0, "energy": -2.0}}
    folder = write_run(tmp_path, card, {"test": scores} | learned)
    row = {"value": 0.5, "low": 0.25, "high": 0.75}
    comparison = {
        "first": "this", "split": "test", "clips": 30,
        "runs": {"this": {"valence": row, "mean": row}, "that": {"valence": row}},
        "differences": {"that": {"valence": {"value": 0.1, "low": -0.1, "high": 0.3}}},
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(comparison))
    return folder


def test_affect_pages_show_labels_weights_source_and_other_runs(affect_run):
    page = Page(write_report(affect_run))
    text = " ".join(page.words)
    assert ["split", "clips", "labels of valence", "labels of energy"] in page.rows
    assert ["test", "30", "30", "29"] in page.rows
    assert ["valence", "8.000", "0.135"] in page.rows  # exp(-4 / 2)
    assert "saved_models/genre_cnn was trained on the same arrays as 2 of the 30 test clips: 7, <9>." in text
    assert ["this", "0.500 (0.250 to 0.750)", "0.500 (0.250 to 0.750)"] in page.rows
    assert ["that", "0.500 (0.250 to 0.750)", "-"] in page.rows
    assert ["that", "0.100 (-0.100 to 0.300)"] in page.rows
    low, high = (
        json.loads((affect_run / "metrics.json").read_text())["test"][f"spearman_mean_{b}"] for b in ("low", "high")
    )
    assert f"({low:.3f} to {high:.3f})" in page.row("mean")[1]


@pytest.mark.parametrize(
    ("learnt", "expected"),
    [([], "was trained on none of the test clips"), (None, "is not known")],
    ids=["none", "unknown"],
)
def test_a_source_that_knew_no_test_clip_or_does_not_tell(affect_run, learnt, expected):
    card = json.loads((affect_run / "card.json").read_text())
    card["source"]["test_clips_learnt"] = learnt
    (affect_run / "card.json").write_text(json.dumps(card))
    assert expected in " ".join(Page(write_report(affect_run)).words)
