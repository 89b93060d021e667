"""Asynchronous jobs: images that are requested now and fetched later. Redis keeps each job, which ends exactly once."""
