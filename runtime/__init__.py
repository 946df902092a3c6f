"""What every script needs before it does its work: command line, processes, files."""
