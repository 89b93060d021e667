"""Trains discriminators on images of your own: needs torch (`.venv-train`); see docs/profiling.md."""
