"""`kubectl cascade`: the plugin, which asks the cluster through kubectl, and routers through its port-forward."""
