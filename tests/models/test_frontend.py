import keras
import librosa
import numpy as np
import pytest

from mtmusic.audio.features import fused_spectrogram, logmel_filters, logmel_spectrogram, mel_filters
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.models.frontend import Logmel, LogMelSpectrogram


@pytest.fixture(scope="module")
def layer() -> LogMelSpectrogram:
    return LogMelSpectrogram(mel_filters())


def both(layer: LogMelSpectrogram, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 128) by the layer and by audio.features."""
    return np.array(layer(waveform[np.newaxis]))[0], fused_spectrogram(waveform)[:128].T


@pytest.mark.parametrize("genre", ["Classical", "Electronic", "Metal"])
def test_it_gives_the_mel_of_audio_features(layer, genre):
    ours, expected = both(layer, synthesise(genre, 0, 5.0)[0])
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.real
def test_it_gives_the_mel_of_real_recordings(layer, real_data):
    for path in sorted((real_data / "audio").glob("*.ogg")):
        ours, expected = both(layer, load_waveform(path, duration=30.0))
        np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 511, 512, 2047])
def test_short_clips_have_the_frames_of_audio_features(layer, samples):
    ours, expected = both(layer, np.random.default_rng(0).normal(0, 0.1, samples).astype("float32"))
    assert len(ours) == 1 + samples // 512
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_a_tone_over_faint_noise_keeps_its_quiet_bins(layer):
    """In float32 they are 1.4e-3 dB off."""
    time = np.arange(22_050) / 22_050
    noise = np.random.default_rng(0).normal(0, 1e-3, time.size)
    ours, expected = both(layer, (0.9 * np.sin(2 * np.pi * 1000 * time) + noise).astype("float32"))
    assert np.mean(expected > -80) > 0.3
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_silence_is_its_own_maximum(layer):
    ours, expected = both(layer, np.zeros(2000, "float32"))
    assert np.array_equal(ours, expected)
    assert not ours.any()


def test_each_clip_has_its_own_reference(layer):
    loud = synthesise("Jazz", 0, 1.0)[0]
    batch = np.array(layer(np.stack([loud, loud / 100])))
    np.testing.assert_allclose(batch[0], batch[1], atol=1e-3)
    assert batch.max(axis=(1, 2)).tolist() == [0, 0]


def test_it_survives_saving_with_its_filters(layer, tmp_path):
    samples = keras.Input((None,), dtype="float32")
    keras.Model(samples, layer(samples)).save(tmp_path / "mel.keras")
    loaded = keras.models.load_model(tmp_path / "mel.keras")
    waveform = synthesise("Folk", 0, 1.0)[0][np.newaxis]
    assert np.array_equal(np.array(loaded(waveform)), np.array(layer(waveform)))


@pytest.mark.parametrize("samples", [1, 255, 256, 511, 48_000])
def test_logmel_is_that_of_audio_features_and_of_librosa(samples, tmp_path):
    """Centred, with zeros around the clip, at its own level."""
    waveform = np.random.default_rng(0).normal(0, 0.3, samples).astype("float32")
    layer = Logmel(logmel_filters())
    got = np.array(layer(waveform[np.newaxis]))[0]
    assert got.shape == (1 + samples // 256, 96)
    np.testing.assert_allclose(got, logmel_spectrogram(waveform).T, atol=1e-4)
    padded = np.pad(waveform, 256)
    power = librosa.feature.melspectrogram(y=padded, sr=16_000, n_fft=512, hop_length=256, n_mels=96, center=False)
    np.testing.assert_allclose(got, np.log10(1 + 10_000 * power).T, atol=1e-4)
    np.testing.assert_allclose(
        10 ** np.array(layer(waveform[np.newaxis] / 2))[0] - 1, (10**got - 1) / 4, rtol=1e-3, atol=1e-3
    )
