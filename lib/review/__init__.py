"""Labels that people decide about: which look wrong, how far to trust that, and what was decided."""
