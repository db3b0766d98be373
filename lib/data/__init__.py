"""Tables and texts, no model."""
