"""`trine search`: a query against a dataset folder."""
