"""Where image-caption pairs (x, t) come from: scenes, folders, sets, links; collected and stored in one format."""
