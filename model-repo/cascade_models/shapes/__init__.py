"""The built-in testbed: scenes of one to four coloured shapes, with grammar, renderer, checker, sampler and weights.

Everything except the ``training`` sub-package only needs numpy. So the serving pipeline, the load generator, the
profiler and the tests share one definition of what a prompt means and when an image is right.
"""
