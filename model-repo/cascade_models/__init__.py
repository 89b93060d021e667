"""Models, their Triton repository and the shapes testbed. Runs in Triton's environment and imports nothing of ours."""
