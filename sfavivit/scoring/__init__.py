"""Offline scoring: a list of videos becomes Parquet rows, each video once, even if the machine dies.

    items ──► pending ──► an executor ──► PartWriter ──► DIR/rows/*.parquet
              (without      (``workers`` here; anything     (the parent is the only writer)
               rows yet)     that yields rows will do)

The Parquet parts are the only state of a job: a part is on disk as a whole or not at all, all rows of a video
are in one part, and a start skips the videos that have rows in parts.

    job_options.py    options of a job, and its shard of the list
    rows.py           the columns, and the rows of an answer or an error
    parquet_parts.py  writing and reading of Parquet parts
    record.py         job.json: the options that all rows of a folder share
    folder.py         DIR: locks, resuming, and the removal of rows
    scorer.py         scoring in this process; the next video is decoded during inference
    workers.py        scoring in worker processes that may die
    ray_executor.py   scoring on a Ray cluster
    machines.py       cores and GPUs to share out
    job.py            a job from the list to the metrics
    metrics.py        accuracies of all rows with known labels
    stop.py           orderly end on a signal
"""
