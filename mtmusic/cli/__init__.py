"""The commands: one module each. The only place with argparse, print and the names of flags."""
