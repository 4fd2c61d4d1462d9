import numpy as np
import pytest
import soundfile

from mtmusic.audio.features import fused_spectrogram, mel_db, mel_power, stft
from mtmusic.audio.synthesis import synthesise
from mtmusic.audio.windows import song_features, window_bounds, window_features


@pytest.mark.parametrize(
    ("seconds", "bounds"),
    [
        (0.5, [(0, 0.5)]),  # shorter than a window
        (2.0, [(0, 2)]),
        (2.9, [(0, 2)]),  # less than a second remains
        (3.0, [(0, 2), (1, 3)]),
        (4.0, [(0, 2), (2, 4)]),
        (5.5, [(0, 2), (2, 4), (3.5, 5.5)]),
        (6.9, [(0, 2), (2, 4), (4, 6)]),
    ],
)
def test_windows_are_of_one_length_and_the_last_ends_with_the_song(seconds, bounds):
    found = window_bounds(round(seconds * 22_050), 2.0)
    assert [(begin / 22_050, end / 22_050) for begin, end in found] == bounds


def test_each_window_is_a_clip_of_its_own_at_each_rate():
    waveform = synthesise("Rock", 0, 5.0)[0]
    features = window_features(waveform, {(2.0, True), (2.0, False), (5.0, False)}, with_mel=True)
    parts = [waveform[:44_100], waveform[44_100:88_200], waveform[66_150:]]
    for beat in (False, True):
        assert len(features.windows[2.0, beat]) == 3
        for array, part in zip(features.windows[2.0, beat], parts, strict=True):
            assert np.array_equal(array, fused_spectrogram(part, beat))
    assert np.array_equal(features.windows[5.0, False][0], fused_spectrogram(waveform))
    assert np.array_equal(features.mel, mel_db(mel_power(stft(waveform))))
    assert features.samples == len(waveform)
    assert window_features(waveform, {(5.0, False)}).mel.shape == (128, 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_songs_go_in_parallel_and_failures_are_reported(tmp_path, jobs):
    waveform = synthesise("Folk", 1, 3.0)[0]
    soundfile.write(tmp_path / "good.wav", waveform, 22_050, subtype="FLOAT")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    paths = [tmp_path / name for name in ("good.wav", "bad.wav", "absent.wav")]
    features = dict(song_features(paths, {(3.0, False)}, jobs=jobs))
    array = features[paths[0]].windows[3.0, False][0]
    np.testing.assert_allclose(array, fused_spectrogram(waveform), atol=1e-4)  # on one thread, and on all
    assert features[paths[0]].doubts == (f"{paths[0]} is short: 3.0 s",)
    assert features[paths[1]].failure.startswith("Expected audio")
    assert features[paths[2]].failure == f"Expected a song's file, got no such file: {paths[2]}"
