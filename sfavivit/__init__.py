"""SFA-ViViT serving."""
