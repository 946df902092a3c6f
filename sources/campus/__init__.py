"""The toy campus, rendered in the University-1652 layout; begin with render.py."""
