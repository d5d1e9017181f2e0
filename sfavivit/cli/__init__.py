"""The commands of ``sfavivit``, a file each."""
