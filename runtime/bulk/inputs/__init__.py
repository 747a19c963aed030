"""Reads what people have: files of lines, tables, PDFs and images, as rows of items."""
