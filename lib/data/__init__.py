"""Tables and texts, no model."""

URL_TOKEN, EMAIL_TOKEN = "[URL]", "[EMAIL]"  # what cleaning puts in place of an address, and every tokenizer of a backbone knows
