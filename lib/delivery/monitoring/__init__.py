"""Is what comes in still what the classifier was trained for? Logs of predictions, and drift."""
