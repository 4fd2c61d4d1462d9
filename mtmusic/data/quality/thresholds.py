"""From which value on the checks find something, each with its reason: all in one table."""

THRESHOLDS: dict[str, tuple[float, str]] = {
    "loudest_db": (0.5, "mel is relative to the clip's own maximum, so 0 is the most; rounding moves it by less"),
    "not_reached_db": (-0.5, "and 0 is reached, between beats too: their medians are taken before dB"),
    "floor_db": (-80.5, "power_to_db stops 80 dB below the maximum; rounding moves it by less"),
    "at_floor_db": (0.5, "how near to -80 dB a bin counts as silent; rounding moves it by less"),
    "scaled": (8.0, "standardised values stay within it, as do those from -1 or 0 to 1; noise spans 10 dB"),
    "power_mean": (0.1, "mean over maximum: of 400 songs at most .097 as amplitude, at least .11 as dB in 0 to 1"),
    "constant_db": (0.01, "deviation of mel: that of noise between beats is .9, of 400 songs above 5"),
    "silent_share": (0.25, "of frames at the floor in every bin: of 400 songs none has above .04"),
    "constant_chroma": (0.05, "largest less smallest value: of 400 songs none has below .45"),
    "chroma_margin": (0.01, "beyond 0 to 1, for rounding"),
    "chroma_peak": (0.99, "librosa scales each frame's chroma to a maximum of 1; rounding to 1/128 stays above"),
    "full_rate_peaks": (
        0.99,
        "share of frames with such a peak: all at full rate; of 94 % of beat clips fewer have one",
    ),
    "full_rate_change": (
        0.2,
        "change of chroma from frame to frame: of 400 songs 99 % below at full rate, above by beat",
    ),
    "full_rate_frames": (200, "and so many frames, 5 s at full rate: shorter clips tell too little"),
    "beat_change": (0.3, "the same: of 400 songs none above at full rate, 98 % above by beat"),
    "beat_ratio": (4.0, "the folder's median of frames over a clip's: a second has 43 frames, but 1 to 4 beats"),
    "class_ratio": (0.6, "of a class's shares in two splits: half a class gives .5 to .57"),
    "class_rounding": (1.0, "clips by which the other classes miss equal shares in a stratified split"),
    "class_groups": (20.0, "and so many groups in each split, where there are some: few fall evenly by chance"),
    "class_deviations": (3.5, "else the standard deviations by which the shares must differ: chance gives 1 in 2000"),
    "logmel_loudest": (
        8.1,
        "a square wave at the peak of 4, above which songs are refused, gives 8.04; of 452 songs 6.75",
    ),
    "logmel_silent": (0.05, "at which a bin counts as silent: power of 1e-5; rounding to 1/16 stays below or above"),
    "logmel_power": (0.04, "mean over maximum: of 452 songs at most .011 as power, at least .088 as logmel"),
    "logmel_scaled": (0.001, "how near to 1 the maximum of values scaled to 0 to 1 lies; of 452 songs none below 4.2"),
    "logmel_change": (0.45, "change from frame to frame: of 452 songs none above; medians between beats are in half"),
    "doubtful_rows": (0.05, "of a split's rows wrong or without label: then its classes are not counted"),
    "test_share": (0.05, "of train and test: below it the labels of a split look cut"),
    "missing_labels": (0.2, "of a task's labels in a split: those clips teach it nothing"),
    "skew_shares": (0.1, "L-infinity of class shares between train and test, above what chance gives"),
    "skew_values": (0.1, "Jensen-Shannon divergence of a column between train and test, above what chance gives"),
    "skew_errors": (3.0, "standard errors of a share that chance may give"),
    "skew_groups": (2.0, "times the divergence of two samples of single clips: clips of a group are alike"),
}


def threshold(name: str) -> float:
    return THRESHOLDS[name][0]
