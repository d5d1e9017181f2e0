"""``sfavivit.v1``: the protocol buffer definition and the stubs generated from it."""
