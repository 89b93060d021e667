"""The profiler: measures variants and cascades, generates load, and replays traces."""
