"""The report of a profile as a page."""

from __future__ import annotations

import re

import numpy as np

from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile
from cascade_profiler.measure.profile_page import profile_page
from support.triton import EXAMPLE


def test_a_page_shows_times_quality_and_images_and_needs_no_other_file() -> None:
    (profile,) = (d for d in load_documents(EXAMPLE.read_text(), source="e") if isinstance(d, CascadeProfile))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    page = profile_page(profile, ["a <red> circle", "b", "c"], {"shapes-light": images, "shapes-heavy": images[:2]})
    assert page.count('src="data:image/png;base64,') == 4
    assert "a &lt;red&gt; circle" in page
    assert "<svg" in page
    assert "memory MiB" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
