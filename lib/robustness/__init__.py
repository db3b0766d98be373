"""What a `predict(texts) -> probabilities` makes of texts that are not as they should be."""
