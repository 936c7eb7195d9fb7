"""What nodes need to run: parameters, lifecycle, publishers, threads, an end that leaves nothing behind."""
