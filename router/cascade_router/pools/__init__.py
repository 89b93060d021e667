"""The Triton replicas behind the router: clients and their health."""
