"""Trains discriminators on images of your own, with torch and transformers (`.venv-train`); see docs/profiling.md."""
