"""HTML pages: of a run, a data folder, a cross-validation, the lab."""
