"""Which of our figures may be compared with the published ones."""

from mtmusic.lab.plan import AFFECT_BEAT, GENRE, GENRE_BEAT, summary
from mtmusic.lab.published import compare_with_published

ROW = summary([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.7, "low": 0.6, "high": 0.8}])
NUMBERS = {
    5: {"networks": {"mel_full": {"accuracy": ROW}, "mel": {"accuracy": ROW}}, "majority": 0.179},
    7: {"train": {"accuracy": ROW}},
    8: {"rho": {"cnn": {"mean": ROW}}},
    9: {"task": "calmness", "blocks": 3, "whole": ROW},
    11: {"expected": ROW},
}
OWN = {GENRE: 2880, GENRE_BEAT: 2880, AFFECT_BEAT: 1122}


def comparable(clips: dict[str, int], quick: bool = False) -> dict[str, str]:
    """Of each measured row what its last column says."""
    rows = compare_with_published(NUMBERS, clips, 2, quick).tables[0].rows
    return {row[0]: row[-1] for row in rows if row[1] != "-"}


def test_a_row_is_comparable_where_the_published_figure_is_of_the_same_clips():
    assert comparable(OWN) == {
        "Accuracy: always the largest class": "yes",
        "Accuracy: LSTM on full-rate mel": "with the best published; not with the report, whose network is untrained",
        "Accuracy: LSTM on beat mel": "yes",
        "Accuracy: CNN on beat mel": "with the best published; not with the report, which is on validation",
        "Rho: CNN, a model per task, mean": "no: other held-out clips",
        "Rho: transfer CNN, 3 blocks tuned, calmness (theirs: valence)": "no: other held-out clips",
        "Rho: the submission (expected), mean": "no: ours is on held-out clips, theirs on the 375 submitted clips",
    }
    assert {*comparable(OWN, quick=True).values()} == {"no: a quick run"}
    assert {*comparable({GENRE: 400, GENRE_BEAT: 400, AFFECT_BEAT: 300}).values()} == {"no: other data"}


def test_the_full_rate_row_depends_on_the_full_rate_folder():
    found = comparable(OWN | {GENRE: 2000})
    assert found["Accuracy: LSTM on full-rate mel"] == "no: other data"
    assert found["Accuracy: LSTM on beat mel"] == "yes"


def test_the_table_has_our_row_and_the_number_of_seeds():
    part = compare_with_published(NUMBERS, OWN, 2, quick=False)
    assert part.tables[0].caption == "Test clips, mean and sd of 2 seeds"
    row = next(row for row in part.tables[0].rows if row[0] == "Rho: CNN, a model per task, mean")
    assert row[1:-1] == ("0.600", "0.141", "0.500 to 0.700", ".631", ".700")


def test_the_statement_says_whose_data_it_is():
    def statement(clips: dict[str, int], quick: bool) -> str:
        (sentence,) = compare_with_published(NUMBERS, clips, 1, quick).sentences
        return sentence

    assert statement({}, False).startswith("No row is comparable: published figures are on the lab's own data")
    assert statement(OWN, True) == "No row is comparable: this is a quick run on a part of the lab's data."
    assert statement(OWN, False).startswith(
        "fma_genre_spectrograms, fma_genre_spectrograms_beat, multitask_dataset_beat have as many clips as the lab's "
        "own data. Accuracies on the lab's genre folders are measured on the same 575 test clips"
    )
