"""Arrays of labels and probabilities in, numbers out."""
