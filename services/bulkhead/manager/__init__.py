"""The lifecycle manager: the only writer of records."""
