"""Reports: HTML pages of videos and of scored corpora, pictures of timelines, and exports of segments.

Reports compute no answers; they show a :class:`~sfavivit.inference.results.Recognition`, the curves that were
recorded meanwhile, and the rows of a scored corpus.
"""
