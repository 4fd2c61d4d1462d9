"""A training that meets a full disk keeps its last whole epoch, says so in one line, and goes on from there."""

import csv
from pathlib import Path

from mtmusic.cli import train_genre
from mtmusic.models import trainer

TINY = ("--backbone", "lstm", "--units", "2", "--batch-size", "8", "--epochs", "3")


def test_a_training_goes_on_after_a_full_disk(genre_folder, tmp_path, capsys, monkeypatch, quick_figures):
    written, write = [], trainer.write_from_memory

    def write_first(path: Path, save) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, save)

    flags = ["--data", str(genre_folder), "--out", str(tmp_path / "run"), *TINY]
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "write_from_memory", write_first)
        patched.setattr(trainer, "CHECKPOINT_SECONDS", 0)
        assert train_genre.main(flags) == 2
    *_, kept, error = capsys.readouterr().err.splitlines()
    work = tmp_path / "run.partial"
    assert kept == f"{work} keeps the run: --resume continues it, and --overwrite restarts it"
    assert error.startswith(f"error: No space left on device: {work}/checkpoints/")
    assert [path.name for path in (work / "checkpoints").iterdir()] == ["epoch-00001"]
    assert not (tmp_path / "run").exists()

    assert train_genre.main([*flags, "--resume"]) == 0
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert not work.exists()
