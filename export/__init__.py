"""Export: checkpoint -> model repository."""
