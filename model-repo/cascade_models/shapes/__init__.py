"""The built-in testbed: scenes of one to four coloured shapes, with grammar, renderer, checker, sampler and weights.

Everything here except the ``training`` sub-package needs numpy alone, so that the serving pipeline, the load
generator, the profiler and the tests share one definition of what a prompt means and of when an image is right.
"""
