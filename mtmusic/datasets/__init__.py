"""Songs, FMA or synthesis to a data folder; and looking at one."""
