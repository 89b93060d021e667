"""The Kubernetes driver: a pool is a Deployment, a replica is a pod, and accelerators are resources of Nodes."""
