"""HTML pages about a run, a data folder, a cross-validation and the lab."""
