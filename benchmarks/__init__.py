"""Measures accuracy and speed; the tables in README and docs come from here."""
