"""Data folders: made, checked, shown, and converted from public data sets."""
