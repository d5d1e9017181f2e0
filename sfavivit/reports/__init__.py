"""What people look at: a page for videos, a page for a corpus, a picture, and exports of the segments.

Nothing here computes an answer; it is all made from a :class:`~sfavivit.inference.results.Recognition`,
the curves that were gathered while it was computed, and the rows of a scored corpus.
"""
