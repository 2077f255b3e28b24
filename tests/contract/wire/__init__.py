"""What wire promises of other libraries' formats."""
