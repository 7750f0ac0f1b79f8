"""Image-caption pairs (x, t): scenes, folders, data sets and links are their sources; all are stored in one format."""
