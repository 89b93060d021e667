"""A kubelet for tests: makes Nodes and runs the pods bound to them as processes of this machine.

Every container gets mount, process and host-name namespaces of its own, its volumes at the paths its manifest names,
and an address of 127.0.0.0/8 for its pod; what it runs are programs of this machine, found through a table of images.
There are no images, no limits on memory or CPU, no user ids and no network between pods but loopback.
"""

from .agent import Node, NodeAgent
from .images import Image, Images

__all__ = ["Image", "Images", "Node", "NodeAgent"]
