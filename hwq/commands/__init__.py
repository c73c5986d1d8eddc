"""The command line's commands, one a file; each imports what it runs only when it runs."""
