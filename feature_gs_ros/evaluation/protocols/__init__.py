"""The papers' public evaluation protocols: their layouts read, their numbers computed as their authors do.

`scoring` holds the metrics, one file each the layouts; `published` the rows to print beside ours.
"""
