"""The report of a run: what it left behind (records), what its model answers (answers), charts, and the page of all that."""
