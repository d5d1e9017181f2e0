"""Video files and streams as uint8 frames at a steady rate, decoded by ffmpeg in a sandbox."""
