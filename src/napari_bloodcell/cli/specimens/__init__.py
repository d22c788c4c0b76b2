"""Commands for the fields of one smear together."""
