"""The commands of `mlc`, one file each."""
