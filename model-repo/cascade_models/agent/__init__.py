"""`cascade-triton`: a Triton server on a model repository, by itself or driven by the worker's agent.

The agent (`cascade-triton agent`) starts a Triton as its child, is told which weights to host, and keeps them hosted.
All of it needs the standard library and what rendering needs, since a worker's image has no more.
"""
