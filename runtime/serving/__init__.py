"""The HTTP server: dialects of many clients in front, one packed-batch engine behind. No torch."""
