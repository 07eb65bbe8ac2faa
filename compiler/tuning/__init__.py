"""`--tune`: schedules chosen by measuring them here, and kept on disk."""
