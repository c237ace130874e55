"""The study of quantization strategies: cells, results, verdicts, sentences, cost."""
