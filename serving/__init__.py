"""Serving: the Triton launcher and the gRPC video service."""
