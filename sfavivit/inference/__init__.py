"""Recognition: windows over features, their scores, and the answer for a video or a stream."""
