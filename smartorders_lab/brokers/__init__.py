"""Where child orders go: the paper exchange (`paper`), and real ones."""
