"""From a run's JSON to what people read: Markdown tables, PNG plots, an HTML page."""
