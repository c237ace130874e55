"""Why does my INT8 lose: what each layer costs at the output, why, and what a cure brings."""
