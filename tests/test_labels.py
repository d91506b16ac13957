"""Labels of other programs name the samplers and spacings that they mean."""

from __future__ import annotations

import pytest

from inkwash.core.spacing import Spacing
from inkwash.labels import ENDINGS, LABELS, read_label, write_label
from inkwash.sample import Sampler
from inkwash.value import alias_table


def test_every_label_is_a_registered_short_name() -> None:
    assert set(LABELS.values()) <= set(alias_table(Sampler))
    assert set(ENDINGS.values()) <= set(alias_table(Spacing))


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_read_in_any_case_with_or_without_a_spacing(label: str) -> None:
    assert read_label(label) == (LABELS[label], None)
    assert read_label(f"  {label.upper()}   karras ") == (LABELS[label], "karras")
    assert write_label(LABELS[label], LABELS) == label


@pytest.mark.parametrize("text", ["ddim", "DDIM(eta=0.25)", "DPM++ 9M", "Euler Karrass", ""])
def test_what_is_no_label_passes_unchanged(text: str) -> None:
    assert read_label(text) == (text, None)
