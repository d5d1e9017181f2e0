"""Features of the frozen spatial transformer: extracted, stored and read back."""
