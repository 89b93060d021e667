"""The report of a profile as a page."""

from __future__ import annotations

import re

import numpy as np

from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile
from cascade_profiler.measure.profile_page import profile_page
from cascade_profiler.measure.session import summary
from support.factories import make_profile
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


def test_a_variant_alone_is_told_with_its_own_quality() -> None:
    alone = {"chain": ["light"], "valuesMilli": {"q2": 670}, "errorsMilli": {"q2": 12}}
    profile = make_profile(quality=[alone])
    assert summary(profile).splitlines()[:2] == ["light alone", "  q2: 0.670 ± 0.012"]
    page = profile_page(profile, [], {})
    assert "light alone" in page
    assert "0.670 ± 0.012" in page
