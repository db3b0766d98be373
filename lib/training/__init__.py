"""What turns tables into models."""
