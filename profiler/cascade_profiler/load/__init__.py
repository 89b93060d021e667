"""Generates load on a running service: sends requests in an open loop, and accounts for each of them by its id."""
