"""The Kubernetes driver: pools are Deployments, replicas are pods, accelerators are what Nodes offer."""
