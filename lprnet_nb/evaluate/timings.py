"""Where the time goes: the columns of the vendor's tables."""

STAGES = ("decode", "preprocess", "inference", "postprocess")
