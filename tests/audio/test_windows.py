import tracemalloc

import numpy as np
import pytest
import soundfile

from mtmusic.audio import windows
from mtmusic.audio.features import fused_spectrogram, logmel_spectrogram, mel_db, mel_power, stft
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.audio.windows import (
    BEAT,
    FULL,
    LOGMEL,
    PATCHES,
    TIMES,
    Cutter,
    Frames,
    SongFeatures,
    file_features,
    song_features,
    waveform_features,
)

RATE = 22_050


def whole(parts) -> SongFeatures:
    features = SongFeatures()
    for part in parts:
        features.extend(part)
    return features


@pytest.mark.parametrize("block_seconds", [0.3, 2.0, 60.0])
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
def test_windows_are_of_one_length_and_the_last_ends_with_the_song(seconds, bounds, block_seconds):
    song, block = np.arange(round(seconds * RATE), dtype=np.float32), round(block_seconds * RATE)
    cutter = Cutter(2.0, RATE)
    found = [window for i in range(0, len(song), block) for window in cutter.add(song[i : i + block])]
    found += cutter.end()
    assert [(begin / RATE, (begin + len(window)) / RATE) for begin, window in found] == bounds
    for begin, window in found:
        assert np.array_equal(window, song[begin : begin + len(window)])


@pytest.mark.parametrize("samples", [100, 256 * 40, 256 * 41 - 1, 30_001])
@pytest.mark.parametrize("block", [77, 4000, 10**6])
def test_frames_of_blocks_are_those_of_the_whole_song(monkeypatch, samples, block):
    monkeypatch.setattr(windows, "FRAMES_AT_ONCE", 20)
    song = np.random.default_rng(0).normal(0, 0.1, samples).astype("float32")
    for make, fft, hop in ((logmel_spectrogram, 512, 256), (lambda part: mel_power(stft(part)), 2048, 512)):
        frames = Frames(make, fft, hop)
        found = [piece for i in range(0, samples, block) for piece in frames.add(song[i : i + block])]
        assert all(piece.shape[1] == 20 for piece in found)
        np.testing.assert_allclose(np.hstack([*found, frames.end()]), make(song), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block_seconds", [0.7, 120.0])
def test_each_window_is_a_clip_of_its_own_at_each_rate(monkeypatch, block_seconds):
    monkeypatch.setattr(windows, "BLOCK_SECONDS", block_seconds)
    waveform = synthesise("Rock", 0, 5.0)[0]
    kinds = {(2.0, BEAT), (2.0, FULL), (5.0, FULL)}
    features = whole(waveform_features(waveform, RATE, kinds, with_mel=True))
    parts = [waveform[:44_100], waveform[44_100:88_200], waveform[66_150:]]
    for name in (FULL, BEAT):
        assert features.times[2.0, name] == [(0, 2), (2, 4), (3, 5)]
        for array, part in zip(features.windows[2.0, name], parts, strict=True):
            assert np.array_equal(array, fused_spectrogram(part, name == BEAT))
    assert np.array_equal(features.windows[5.0, FULL][0], fused_spectrogram(waveform))
    assert np.array_equal(features.mel, mel_db(mel_power(stft(waveform))))
    assert (features.seconds, features.stride, features.silent) == (5.0, 1, False)
    assert whole(waveform_features(waveform, RATE, {(5.0, FULL)})).mel.shape == (128, 0)


@pytest.mark.parametrize("block_seconds", [0.7, 120.0])
def test_logmel_has_clips_of_its_own_and_patches_of_the_whole_song(tmp_path, monkeypatch, block_seconds):
    monkeypatch.setattr(windows, "BLOCK_SECONDS", block_seconds)
    monkeypatch.setattr(windows, "FRAMES_AT_ONCE", 90)
    soundfile.write(tmp_path / "song.wav", synthesise("Rock", 0, 5.0)[0], RATE)
    kinds = {(2.0, LOGMEL), (1.6, PATCHES), (2.0, FULL), (2.0, TIMES)}
    features = whole(file_features(tmp_path / "song.wav", kinds))
    waveform = load_waveform(tmp_path / "song.wav", sample_rate=16_000)
    parts = [waveform[:32_000], waveform[32_000:64_000], waveform[48_000:]]
    for array, part in zip(features.windows[2.0, LOGMEL], parts, strict=True):
        np.testing.assert_allclose(array, logmel_spectrogram(part), atol=1e-5)
    frames = logmel_spectrogram(waveform)
    patches = features.windows[1.6, PATCHES]
    assert frames.shape[1] == 313
    np.testing.assert_allclose(np.hstack(patches), frames[:, :300], atol=1e-5)
    assert features.times[1.6, PATCHES] == [(0, 1.6), (1.6, 3.2), (3.2, pytest.approx(4.8))]
    assert len(features.windows[2.0, FULL]) == 3
    assert features.times[2.0, TIMES] == features.times[2.0, LOGMEL] == [(0, 2), (2, 4), (3, 5)]
    assert all(window.size == 0 for window in features.windows[2.0, TIMES])


def test_a_song_shorter_than_a_patch_is_one():
    waveform = synthesise("Rock", 0, 1.0)[0]
    features = whole(waveform_features(waveform, 16_000, {(3.0, PATCHES)}))
    (patch,) = features.windows[3.0, PATCHES]
    assert np.array_equal(patch, logmel_spectrogram(waveform))
    assert features.times[3.0, PATCHES] == [(0, patch.shape[1] * 0.016)]


@pytest.mark.parametrize(("name", "frames", "stride"), [(FULL, 216, 4), (LOGMEL, 431, 8)])
def test_of_a_long_song_every_second_frame_is_kept_for_its_picture(monkeypatch, name, frames, stride):
    monkeypatch.setattr(windows, "MOST_MEL_FRAMES", 100)
    monkeypatch.setattr(windows, "FRAMES_AT_ONCE", 33)
    waveform = synthesise("Rock", 0, 5.0)[0]
    rate = RATE if name == FULL else 16_000
    features = whole(waveform_features(waveform, rate, {(5.0, name)}, with_mel=True))
    whole_song = mel_power(stft(waveform)) if name == FULL else logmel_spectrogram(waveform)
    assert (features.stride, whole_song.shape[1]) == (stride, frames)
    wanted = whole_song[:, ::stride]
    np.testing.assert_allclose(features.mel, mel_db(wanted) if name == FULL else wanted, atol=1e-3)


@pytest.mark.parametrize(("kinds", "rates", "bins"), [
    ({(2.0, LOGMEL), (3.0, PATCHES), (2.0, TIMES)}, [16_000], 96),
    ({(2.0, FULL)}, [22_050], 128),
    ({(2.0, BEAT), (3.0, PATCHES)}, [22_050, 16_000], 128),
])  # fmt: skip
def test_a_picture_is_of_what_is_decoded_already(kinds, rates, bins):
    asked = []

    def blocks(rate: int):
        asked.append(rate)
        yield np.zeros(3 * rate, np.float32)

    assert whole(windows.window_features(blocks, kinds, with_mel=True)).mel.shape[0] == bins
    assert asked == rates


@pytest.mark.parametrize("kind", [(2.0, FULL), (2.0, BEAT), (2.0, LOGMEL), (2.992, PATCHES)])
def test_memory_does_not_grow_with_the_song(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(windows, "BLOCK_SECONDS", 5.0)
    monkeypatch.setattr(windows, "MOST_MEL_FRAMES", 400)
    monkeypatch.setattr(windows, "FRAMES_AT_ONCE", 187)
    peaks = []
    for seconds in (10, 30, 90):  # the first makes what is kept for later songs
        song = tmp_path / f"{seconds}.wav"
        soundfile.write(song, np.tile(np.random.default_rng(0).normal(0, 0.1, RATE), seconds), RATE)
        tracemalloc.start()
        count = sum(len(part.windows.get(kind, ())) for part in file_features(song, {kind}, with_mel=True))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count >= seconds / 3 - 1
    assert peaks[2] < 1.1 * peaks[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_songs_go_in_parallel_and_failures_are_reported(tmp_path, jobs):
    waveform = synthesise("Folk", 1, 3.0)[0]
    soundfile.write(tmp_path / "good.wav", waveform, RATE, subtype="FLOAT")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    paths = [tmp_path / name for name in ("good.wav", "bad.wav", "absent.wav")]
    features = dict(song_features(paths, {(3.0, FULL)}, jobs=jobs))
    array = features[paths[0]].windows[3.0, FULL][0]
    np.testing.assert_allclose(array, fused_spectrogram(waveform), atol=1e-4)  # on one thread, and on all
    assert features[paths[0]].doubts == (f"{paths[0]} is short: 3.0 s",)
    assert features[paths[1]].failure.startswith("Expected audio")
    assert features[paths[2]].failure == f"Expected a song's file, got no such file: {paths[2]}"


@pytest.mark.parametrize("by_header", [True, False])
def test_a_long_song_is_not_made_as_a_whole(tmp_path, monkeypatch, by_header):
    monkeypatch.setattr(windows, "WHOLE_SECONDS", 2.0)
    monkeypatch.setattr(windows, "BLOCK_SECONDS", 1.0)
    if not by_header:
        monkeypatch.setattr(windows, "header_seconds", lambda path: None)
    soundfile.write(tmp_path / "long.wav", synthesise("Folk", 1, 3.0)[0], RATE)
    ((_, song),) = song_features([tmp_path / "long.wav"], {(1.0, FULL)}, jobs=1)
    assert (song.long, song.windows, song.failure) == (True, {}, "")
