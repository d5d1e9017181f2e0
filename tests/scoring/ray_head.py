"""A Ray cluster of its own process: prints its address, and ends with its standard input."""

from __future__ import annotations

import sys

import ray

if __name__ == "__main__":
    ray.init("local", num_cpus=4, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
