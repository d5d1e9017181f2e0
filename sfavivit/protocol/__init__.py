"""The gRPC protocol: messages, stubs and the client class."""
