"""Models, their Triton repository and the built-in shapes testbed. Runs in Triton's environment, imports nothing of ours."""
