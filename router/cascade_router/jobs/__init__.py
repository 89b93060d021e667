"""Asynchronous jobs: images that are asked for now and fetched later, kept in Redis until they have one end."""
