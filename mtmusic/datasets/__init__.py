"""Makes data folders from songs, from FMA or by synthesis. Explores and validates data folders."""
