"""docs/errors.md lists what the code says; each text is a sentence of our own."""

from __future__ import annotations

import pytest
from error_texts import PAGE, page, texts


def test_the_page_lists_what_the_code_says():
    assert PAGE.read_text("utf8") == page(), "run: python tests/error_texts.py"


@pytest.mark.parametrize("place", texts())
def test_a_text_is_a_sentence_and_says_more_than_a_name(place):
    for text in texts()[place]:
        assert "\x1b" not in text
        words = [word for word in text.split() if word.strip("….,:;()'\"")]
        assert len(words) >= 3 or "…" in text, text
