"""Finished results for people: charts, grids of pictures, widgets."""
