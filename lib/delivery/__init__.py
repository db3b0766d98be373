"""What leaves the house: the run and its site, the classifier and its uses, the command line."""

import sys

# nbformat imports jsonschema, and that compiles the grammar of one format of addresses for three
# seconds, which no notebook has; jsonschema does without where the package is missing.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
