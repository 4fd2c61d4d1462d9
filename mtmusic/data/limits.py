"""From which value on the checks speak, each with its reason: all in one table."""

from typing import NamedTuple


class Limit(NamedTuple):
    value: float
    reason: str


LIMITS = {
    "loudest_db": Limit(0.5, "mel is relative to the clip's own maximum, so 0 is the most; rounding moves it by less"),
    "not_reached_db": Limit(-0.5, "and 0 is reached, between beats too: their medians are taken before dB"),
    "floor_db": Limit(-80.5, "power_to_db stops 80 dB below the maximum; rounding moves it by less"),
    "scaled": Limit(10.0, "standardised values stay within it, as do those from -1 or 0 to 1; dB span 40 and more"),
    "power_spread": Limit(2.0, "deviation over mean: of 400 songs above 3 as power, below 1.6 as dB moved to 0 to 1"),
    "constant_db": Limit(0.01, "deviation of mel: that of music is above 5"),
    "silent_share": Limit(0.5, "of frames at the floor: of 400 songs none has above .04"),
    "constant_chroma": Limit(0.05, "largest less smallest value: of 400 songs none has below .45"),
    "chroma_margin": Limit(0.01, "beyond 0 to 1, for rounding"),
    "rate_ratio": Limit(4.0, "to the folder's median: a second has 43 frames, but 1 to 4 beats"),
    "full_rate_peaks": Limit(0.99, "share of frames whose chroma peaks at 1: all at full rate, fewer between beats"),
    "class_ratio": Limit(0.6, "of a class's shares in two splits: near 1 if stratified, .5 for half a class"),
    "class_deviations": Limit(2.0, "standard deviations by which those shares differ: few clips prove nothing"),
    "test_share": Limit(0.05, "of train and test: below it the labels of a split look cut"),
    "missing_labels": Limit(0.2, "of a task's labels in a split: those clips teach it nothing"),
    "skew_shares": Limit(0.1, "L-infinity of a column's shares between train and test, above three standard errors"),
    "skew_values": Limit(0.1, "Jensen-Shannon divergence of a column between train and test, above what chance gives"),
}
