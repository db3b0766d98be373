"""Tables and texts, no model."""

# What cleaning puts in place of an address; the tokenizers of all backbones know them.
URL_TOKEN = "[URL]"
EMAIL_TOKEN = "[EMAIL]"
