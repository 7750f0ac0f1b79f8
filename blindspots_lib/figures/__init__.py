"""Finished results for people: charts, grids of pictures, widgets, the report, the review sheet."""
