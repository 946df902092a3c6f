"""Where photos were taken: their own places, features of a map, search, estimates, outputs."""
