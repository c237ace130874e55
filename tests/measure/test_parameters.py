from __future__ import annotations

from pathlib import Path

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.measure.parameters import check


def test_lists_are_parsed_from_text_and_from_sequences():
    p = check(
        CHIPS="bm1684x, BM1684",
        PRECISIONS="INT8,fp32",
        BATCHES="1,4",
        IMAGES="0",
        STRATEGIES="kl,mse",
        DECODERS="greedy",
        OUTPUT_DIR="out",
    )
    assert p.chips == ("BM1684X", "BM1684") and p.precisions == ("int8", "fp32")
    assert p.batches == (1, 4) and p.images == 0 and p.strategies == ("kl", "mse")
    assert p.output == Path("out")
    assert check(CHIPS=["BM1688"], BATCHES=2).batches == (2,)
    assert check().output is None and check(OUTPUT_DIR="").output is None


@pytest.mark.parametrize(
    "given, message",
    [
        ({"CHIP": "BM1684X"}, "'CHIP' is not known. There are: DATA,.*CHIPS"),
        ({"chips": "BM1684X"}, "'chips' is not known"),
        ({"CHIPS": "BM9999"}, "Choose from BM1684, BM1684X, BM1688, CV186X"),
        ({"CHIPS": "BM1684,"}, "empty entry"),
        ({"CHIPS": "BM1684,bm1684"}, "twice"),
        ({"PRECISIONS": "int4"}, "fp32, fp16, bf16, int8"),
        ({"BATCHES": "0"}, "from 1 to 256"),
        ({"BATCHES": "1,1"}, "twice"),
        ({"IMAGES": -1}, "from 0 to"),
        ({"IMAGES": True}, "from 0 to"),
        ({"STRATEGIES": "best"}, "Choose from recommended, "),
        ({"DECODERS": "psychic"}, "greedy, beam, plate"),
        ({"BACKEND": "gpu"}, "auto, "),
        ({"BATCH_MEAN": "none"}, "batch, image"),
        ({"DATA": "publishd"}, "auto, published, generated, or the path"),
        ({"TOOLCHAIN": "gcc"}, "mlir, nntc"),
    ],
)
def test_what_is_impossible_is_refused_with_what_is_valid(given, message):
    with pytest.raises(ParameterError, match=message):
        check(**given)
