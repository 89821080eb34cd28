"""What can be asked for, as plain values: what a command line can say, a file can hold and a hash can name."""
