"""Engine JSON to domain types and back; the differences between API versions live here only."""
