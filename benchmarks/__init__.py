"""One module per claim: measures both sides in one run, prints a table, then one JSON line."""
