"""From a question to rows: parameters, data, models, and each model run, decoded and judged."""
