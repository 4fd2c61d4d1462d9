"""The thresholds of the checks, each with its reason."""

THRESHOLDS: dict[str, tuple[float, str]] = {
    "loudest_db": (
        0.5,
        "Mel is relative to the clip's own maximum, so 0 is the largest value. Rounding changes it by less.",
    ),
    "not_reached_db": (-0.5, "The loudest bin is at 0 dB. This holds between beats too: medians are taken before dB."),
    "floor_db": (-80.5, "power_to_db stops 80 dB below the maximum. Rounding changes it by less."),
    "at_floor_db": (0.5, "A bin this near to -80 dB counts as silent. Rounding changes it by less."),
    "scaled": (8.0, "Largest absolute value. Standardised and rescaled values are below it. Noise spans 10 dB."),
    "power_mean": (0.1, "Mean over maximum. In 400 songs: at most .097 as amplitude, at least .11 as dB in 0 to 1."),
    "constant_db": (0.01, "Standard deviation of mel. It is .9 for noise between beats, and above 5 in 400 songs."),
    "silent_share": (0.25, "Share of frames at the floor in every bin. None of 400 songs has more than .04."),
    "constant_chroma": (0.05, "Largest minus smallest value. None of 400 songs has less than .45."),
    "chroma_margin": (0.01, "Chroma may leave 0 to 1 by this much, through rounding."),
    "chroma_peak": (0.99, "librosa scales each frame's chroma to a maximum of 1. Rounding to 1/128 stays above."),
    "full_rate_peaks": (
        0.99,
        "Share of frames with such a peak. It is 1 at full rate, and lower in 94 % of beat-synchronised clips.",
    ),
    "full_rate_change": (
        0.2,
        "Change of chroma from frame to frame. Of 400 songs, 99 % are below at full rate, and above by beat.",
    ),
    "full_rate_frames": (200, "Frames, 5 s at full rate. Shorter clips are too short to tell the rate."),
    "beat_change": (0.3, "Change of chroma. Of 400 songs, none is above at full rate, and 98 % are above by beat."),
    "beat_ratio": (4.0, "Median frames of the folder over a clip's frames. A second has 43 frames, or 1 to 4 beats."),
    "class_ratio": (0.6, "Ratio of a class's shares in two splits. If half of a class is missing, it is .5 to .57."),
    "class_rounding": (1.0, "Clips by which the other classes differ from equal shares in a stratified split."),
    "class_groups": (20.0, "Groups in each split, if the folder has groups. A few groups may be even by chance."),
    "class_deviations": (3.5, "Standard deviations by which the shares differ in other splits. Chance: 1 in 2000."),
    "logmel_loudest": (
        8.1,
        "A square wave with a peak of 4, the largest accepted, gives 8.04. The largest of 452 songs is 6.75.",
    ),
    "logmel_silent": (0.05, "A bin below this, a power of 1e-5, counts as silent. Rounding to 1/16 does not cross it."),
    "logmel_power": (0.04, "Mean over maximum. In 452 songs: at most .011 as power, at least .088 as logmel."),
    "logmel_scaled": (0.001, "Values scaled to 0 to 1 have a maximum this near to 1. In 452 songs it is 4.2 or more."),
    "logmel_change": (0.45, "Change from frame to frame. Of 452 songs, none is above at full rate, and half by beat."),
    "doubtful_rows": (0.05, "Share of wrong or unlabelled rows in a split. Above it, classes are not counted."),
    "test_share": (0.05, "Test's share of train and test. Below it, the test labels look truncated."),
    "missing_labels": (0.2, "Share of a task's labels that are missing in a split. Such clips do not train the task."),
    "skew_shares": (0.1, "L-infinity distance of class shares between train and test, above chance."),
    "skew_values": (0.1, "Jensen-Shannon divergence of a column between train and test, above chance."),
    "skew_errors": (3.0, "Standard errors of a share that chance may give."),
    "skew_groups": (2.0, "Factor on the divergence that chance gives for single clips. Clips of a group are alike."),
}


def threshold(name: str) -> float:
    return THRESHOLDS[name][0]
