"""Models, their Triton repository and the shapes testbed. Runs in Triton's environment and imports nothing of ours."""

from typing import Final

VERSION: Final = "CASCADE_VERSION"
"""The variable that tells the models the version of the product, which their environment does not know."""
