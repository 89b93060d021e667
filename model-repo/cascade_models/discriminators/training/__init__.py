"""Trains discriminators on your own images, with torch and transformers (`.venv-train`); see docs/profiling.md."""
