"""The stages in order, the notebooks, plan and check, the command line."""
