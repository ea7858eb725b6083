"""The formats that are read; a further one is one more `Reader`."""
