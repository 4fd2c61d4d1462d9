"""The lab's eleven steps on one page."""
