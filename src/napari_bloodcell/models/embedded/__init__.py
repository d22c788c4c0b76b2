"""The SAM that ships with the program."""
