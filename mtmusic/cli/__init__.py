"""The commands, one module for each. Only this package uses argparse, print and the names of flags."""
