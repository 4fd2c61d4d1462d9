"""Oracle: librosa.load."""

import subprocess
import tracemalloc
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from mtmusic.audio import loading
from mtmusic.audio.decoding import header_seconds
from mtmusic.audio.loading import load_waveform, load_with_doubts, resampled, stream_waveform
from mtmusic.errors import UserError
from tests.audio.conftest import Save
from tests.sounds import loud_then_quiet, tones


def librosa_load(path: Path, offset: float = 0.0, duration: float | None = None) -> np.ndarray:
    return librosa.load(path, offset=offset, duration=duration)[0]


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 22_050, 1),
        ("a.wav", 8_000, 1),
        ("a.flac", 96_000, 2),
        ("a.wav", 44_100, 6),
        ("a.ogg", 48_000, 2),
        ("a.mp3", 44_100, 2),
    ],
)
@pytest.mark.parametrize(("offset", "duration"), [(0.0, None), (0.0, 5.0), (0.37, 5.1)])
def test_equals_librosa(save: Save, name: str, rate: int, channels: int, offset: float, duration: float) -> None:
    path = save(name, tones(6, rate, channels), rate)
    waveform = load_waveform(path, offset, duration)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, librosa_load(path, offset, duration))


@pytest.mark.real
def test_equals_librosa_on_recordings(real_data: Path) -> None:
    paths = sorted((real_data / "audio").glob("*.ogg"))
    assert len(paths) == 5
    for path in paths:
        np.testing.assert_array_equal(load_waveform(path, duration=30), librosa_load(path, duration=30))


def test_only_the_part_asked_for_is_decoded(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save("long.wav", np.tile(tones(60, 8_000), (10, 1)), 8_000)
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda f, *a, **k: asked.append(len(k["out"])) or read(f, *a, **k))
    assert len(load_waveform(path, offset=500, duration=30)) == 30 * 22_050
    assert sum(asked) == 30 * 8_000


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (np.zeros(6 * 22_050), "is silent"),
        (np.clip(3 * tones(6, 22_050), -1, 1), r"is clipped: \d\d\.\d% of its samples"),
        (tones(4.9, 22_050), r"is short: 4\.9 s"),
        (tones(0.2, 22_050), r"is short: 0\.2 s"),
    ],
)
def test_warns(save: Save, samples: np.ndarray, told: str) -> None:
    path = save("a.wav", samples)
    with pytest.warns(UserWarning, match=rf"a\.wav {told}") as told_of:
        load_waveform(path)
    assert len(told_of) == 1
    assert told_of[0].filename == __file__


def test_a_part_that_is_asked_for_is_not_short(save: Save) -> None:
    assert len(load_waveform(save("a.wav", tones(6, 22_050)), duration=2)) == 2 * 22_050


def test_a_truncated_mp3_gives_what_it_has(save: Save) -> None:
    path = save("a.mp3", tones(20, 44_100), 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"a\.mp3 is truncated: (9|10)\.\d s"):
        assert 9 < len(load_waveform(path)) / 22_050 < 11


@pytest.mark.parametrize("truncated", [True, False])
def test_a_damaged_flac_gives_what_comes_before(save: Save, truncated: bool) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 22_050)
    path = save("a.flac", samples)
    expected = librosa_load(path)
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    path.write_bytes(content[:half] + (b"" if truncated else bytes(3_000) + content[half + 3_000 :]))
    with pytest.warns(UserWarning, match=r"a\.flac is truncated: (10|11)\.\d s"):
        waveform = load_waveform(path)
    assert 9 * 22_050 <= len(waveform) < 10.1 * 22_050
    np.testing.assert_array_equal(waveform, expected[: len(waveform)])


@pytest.mark.parametrize(("offset", "seconds"), [(0.0, 0.4), (0.1, 0.3)])
def test_a_flac_cut_in_its_first_second_gives_what_it_has(
    save: Save, decoders: str, offset: float, seconds: float
) -> None:
    path = save("a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 22_050))
    expected = librosa_load(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.warns(UserWarning, match="a.flac is") as told:
        waveform = load_waveform(path, offset)
    assert [str(warning.message) for warning in told] == [
        f"{path} is short: {seconds} s",
        f"{path} is truncated: 19.6 s of the length in its header are missing",
    ]
    first = int(offset * 22_050)
    np.testing.assert_array_equal(waveform, expected[first : first + len(waveform)])


@pytest.mark.parametrize(("cut", "offset"), [(8_000, 0), (500_000, 15)])
def test_damage_before_all_that_was_asked_for_is_refused(save: Save, decoders: str, cut: int, offset: float) -> None:
    path = save("a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 22_050))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"Expected {20 - offset}\.0 s .* none in .*a\.flac: is the file damaged\?"):
        load_waveform(path, offset)


def test_an_mp3_with_garbage_inside_gives_what_comes_before(save: Save) -> None:
    path = save("a.mp3", tones(20, 44_100), 44_100)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + np.random.default_rng(0).bytes(20_000) + content[half + 20_000 :])
    with pytest.warns(UserWarning, match=r"a\.mp3 is truncated"):
        assert 8 < len(load_waveform(path)) / 22_050 < 10


@pytest.mark.parametrize(("offset", "duration"), [(0.0, None), (2.1, None), (0.0, 5.0), (1.0, 30.0)])
def test_a_flac_of_unknown_length(save: Save, offset: float, duration: float | None) -> None:
    path = save("a.flac", tones(7.3, 44_100, 2), 44_100)
    expected = librosa_load(path, offset, duration)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the header's 36 bits of the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(load_waveform(path, offset, duration), expected)
    assert header_seconds(path) is None


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"offset": -1}, "Expected an offset of 0 seconds or more, got -1"),
        ({"offset": np.nan}, "Expected an offset of 0 seconds or more, got nan"),
        ({"duration": 0}, "Expected a duration above 0 seconds, got 0"),
        ({"duration": np.nan}, "Expected a duration above 0 seconds, got nan"),
    ],
)
def test_refuses_parts_that_are_none(save: Save, part: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=rf"{told} for .*a\.wav"):
        load_waveform(save("a.wav", tones(6, 22_050)), **part)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_samples_that_are_not_finite(save: Save, value: float) -> None:
    samples = tones(6, 22_050)
    samples[[7, 1000]] = value
    with pytest.raises(UserError, match=r"got 2 NaN or infinite in .*a\.wav"):
        load_waveform(save("a.wav", samples, subtype="FLOAT"))


def test_refuses_no_samples_and_an_offset_beyond_the_end(save: Save) -> None:
    with pytest.raises(UserError, match=r"Expected audio, got none in .*empty\.wav"):
        load_waveform(save("empty.wav", np.zeros(0)))
    with pytest.raises(UserError, match=r"after second 40, got none in .*a\.wav"):
        load_waveform(save("a.wav", tones(6, 22_050)), offset=40)


def test_no_warning_of_python_comes_through(save: Save) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_waveform(save("a.wav", tones(6, 44_100), 44_100))
    assert told == []


# --- at another rate, in blocks, with its level


@pytest.mark.parametrize(
    ("name", "rate", "channels"), [("a.wav", 44_100, 2), ("a.flac", 16_000, 1), ("a.mp3", 48_000, 2)]
)
def test_at_16_khz_equals_librosa(save: Save, name: str, rate: int, channels: int) -> None:
    path = save(name, tones(6, rate, channels), rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = librosa.load(path, sr=16_000)[0]
    np.testing.assert_array_equal(load_waveform(path, sample_rate=16_000), expected)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("target", [16_000, 22_050])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 20.0])
def test_blocks_are_the_samples_of_the_whole(save: Save, rate: int, target: int, seconds: float) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (int(7.31 * rate), 2))
    path = save("a.wav", samples, rate)
    doubts: list[str] = []
    blocks = [*stream_waveform(path, target, seconds, doubts=doubts)]
    length = round(seconds * target)
    assert [len(block) for block in blocks[:-1]] == [length] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= length
    np.testing.assert_array_equal(np.concatenate(blocks), librosa.load(path, sr=target)[0])
    assert doubts == []


def test_blocks_of_what_soundfile_does_not_open(save: Save, tmp_path: Path, decoders: str) -> None:
    if decoders == "no ffmpeg":
        pytest.skip("needs ffmpeg")
    path = tmp_path / "a.m4a"
    decoded = tmp_path / "decoded.wav"
    for one, other in ((save("a.wav", tones(40, 44_100, 6), 44_100), path), (path, decoded)):
        convert = ["ffmpeg", "-v", "error", "-i", str(one), str(other)]
        subprocess.run(convert, check=True, stdin=subprocess.DEVNULL)
    whole, part = (librosa.load(decoded, sr=16_000, **of)[0] for of in ({}, {"offset": 1.3, "duration": 2.7}))
    np.testing.assert_array_equal(np.concatenate([*stream_waveform(path, 16_000, 3.0)]), whole)
    np.testing.assert_array_equal(np.concatenate([*stream_waveform(path, 16_000, offset=1.3, duration=2.7)]), part)
    first = stream_waveform(path, 16_000, 3.0)
    next(first)
    first.close()  # ends, though ffmpeg has more to say


def test_what_is_wrong_is_told_when_the_song_is_over(save: Save) -> None:
    path = save("a.wav", np.concatenate([np.zeros(2 * 22_050), np.ones(22_050)]))
    doubts: list[str] = []
    assert [len(block) for block in stream_waveform(path, 22_050, 1.0, doubts=doubts)] == [22_050] * 3
    assert doubts == [f"{path} is clipped: 33.3% of its samples are at full scale", f"{path} is short: 3.0 s"]


def test_memory_does_not_grow_with_the_song(save: Save) -> None:
    paths = [save(f"{minutes}.wav", np.tile(tones(60, 8_000), (minutes, 1)), 8_000) for minutes in (2, 20)]
    peaks = []
    for path in paths:
        tracemalloc.start()
        assert sum(len(block) for block in stream_waveform(path, 16_000, 10.0)) % (16_000 * 120) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 8 * 10 * 16_000 * 4


def test_where_the_level_counts_a_peak_above_4_is_refused(save: Save) -> None:
    path = save("a.wav", 8.2 * tones(6, 22_050), subtype="FLOAT")
    with pytest.warns(UserWarning, match="is clipped"):
        assert np.abs(load_waveform(path)).max() > 4
    told = r"Expected samples from -1 to 1, with no peak above 4, got a peak of 4\.1 in .*a\.wav"
    with pytest.raises(UserError, match=told):
        load_waveform(path, sample_rate=16_000)
    with pytest.raises(UserError, match=r"got a peak of 4\.1 in the waveform"):
        resampled(8.2 * tones(6, 22_050)[:, 0], 22_050, 16_000)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_integers_are_scaled_by_their_type(dtype: str) -> None:
    samples = tones(1, 16_000)[:, 0]
    bits = 8 * np.dtype(dtype).itemsize
    integers = np.round(samples * 2 ** (bits - 1) + (128 if dtype == "uint8" else 0)).astype(dtype)
    np.testing.assert_allclose(resampled(integers, 16_000, 16_000), samples, atol=1.01 * 2.0**-bits + 1e-7)


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint16", "complex64"])
def test_other_numbers_are_no_samples(dtype: str) -> None:
    with pytest.raises(UserError, match=rf"Expected a waveform \(samples,\) of floats.*, got \(9,\) {dtype}"):
        resampled(np.zeros(9, dtype), 16_000, 16_000)


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_U8"])
def test_channels_that_cancel_each_other_are_refused(save: Save, subtype: str) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (6 * 22_050, 1)) + tones(6, 22_050)
    inverted = save("a.wav", np.hstack([samples, -samples]) / 2, subtype="FLOAT")
    with pytest.raises(
        UserError, match=r"Expected sound in mono, got channels that cancel each other in .*a\.wav: invert"
    ):
        load_waveform(inverted)
    nearly = save("b.wav", np.hstack([samples, -0.99 * samples]) / 2, subtype=subtype)  # the mix is at -43 dB
    assert load_with_doubts(nearly)[1] == []
    one = save("c.wav", np.hstack([samples, 0 * samples]) / 2, subtype=subtype)
    assert load_with_doubts(one)[1] == []


def test_channels_that_cancel_in_whole_numbers_are_refused(save: Save) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (6 * 22_050, 1)) + tones(6, 22_050)
    path = save("a.wav", np.hstack([samples, -samples]) / 2)
    mix = soundfile.read(path)[0].mean(axis=1)
    assert 0 < np.abs(mix).max() < 1e-4  # what is left is rounding
    with pytest.raises(UserError, match="cancel each other"):
        load_waveform(path)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_seconds_whose_channels_cancel_each_other_are_told_of(save: Save, rate: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (20 * rate, 1))
    other = samples.copy()
    other[: 5 * rate] *= -1
    other[8 * rate : 9 * rate + rate // 2] *= -1  # half a second is not told of
    other[19 * rate :] *= -1
    samples[12 * rate : 13 * rate] = other[12 * rate : 13 * rate] = 0
    path = save("a.wav", np.hstack([samples, other]), rate)
    told = f"{path} has opposite channels in seconds {{}}: they cancel each other in mono"
    assert load_with_doubts(path)[1] == [told.format("0 to 5, 8 to 9, 19 to 20")]
    assert load_with_doubts(path, offset=3, duration=8)[1] == [told.format("3 to 5, 8 to 9")]
    assert load_with_doubts(path, offset=9.5, duration=9.4)[1] == []
    with pytest.raises(UserError, match="cancel each other"):
        load_waveform(path, duration=5)


def test_a_day_of_sound_is_refused_undecoded(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save("a.flac", tones(6, 44_100), 44_100)
    content = bytearray(path.read_bytes())
    content[21:26] = (content[21] & 0xF0 | 1).to_bytes(1, "big") + (10**9).to_bytes(4, "big")  # of samples
    path.write_bytes(content)
    hours = (2**32 + 10**9) / 44_100 / 3600
    assert len(load_with_doubts(path, duration=5)[0]) == 5 * 22_050
    monkeypatch.delattr(soundfile.SoundFile, "read")
    with pytest.raises(
        UserError, match=rf"Expected up to 24 hours of audio, got {hours:.1f} by the header in .*a\.flac"
    ):
        load_waveform(path)


def test_what_does_not_state_its_length_is_decoded_up_to_a_limit(
    save_mp3: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_mp3("a.mp3", loud_then_quiet(20), "VARIABLE", stated=False)
    monkeypatch.setattr(loading, "LONGEST_HOURS", 10 / 3600)
    with pytest.raises(UserError, match=r"hours of audio, got more in .*a\.mp3"):
        [*stream_waveform(path, block_seconds=1)]
    assert len(load_with_doubts(path, duration=9)[0]) == 9 * 22_050


def test_what_is_wrong_with_a_waveform_is_told() -> None:
    for samples, told in (
        (np.zeros(6 * 22_050), ["the waveform is silent"]),
        (np.zeros(6 * 22_050, np.int16), ["the waveform is silent"]),
        (np.full(1, 0.5), ["the waveform is short: 0.0 s"]),
        (tones(6, 22_050)[:, 0], []),
    ):
        doubts: list[str] = []
        resampled(samples, 22_050, 16_000, doubts)
        assert doubts == told
