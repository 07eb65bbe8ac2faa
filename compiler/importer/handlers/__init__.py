"""What each operator becomes: a file for each family, `table.py` lists them all."""
