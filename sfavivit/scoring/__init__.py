"""Offline scoring: a list of videos becomes Parquet rows, each video once, however often the machine dies.

    items ──► pending ──► an executor ──► PartWriter ──► DIR/rows/*.parquet
              (without      (``workers`` here; anything     (the parent is the only writer)
               what parts    that yields rows will do)
               hold)

What counts is what is in complete parts: a part is on disk as a whole or not at all, all rows of a video are
in one part, and a start skips the videos that parts hold. Nothing else is remembered.

    options.py   what to ask of each video, and the share of the list that is this job's
    rows.py      the columns, and the rows of an answer or an error
    parts.py     writing and reading parts
    folder.py    DIR: who may write there, and that all its rows can be compared
    scorer.py    videos -> rows in this process, the next video's decoding overlapping inference
    workers.py   the same in processes that may die
    job.py       all of it together
    metrics.py   accuracies of all rows that know their truth
"""
