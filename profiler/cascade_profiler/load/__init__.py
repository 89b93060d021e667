"""Load on a running service: an open loop of requests, each accounted for by its id."""
