"""The Triton replicas behind the router: clients, their health, and probes."""
