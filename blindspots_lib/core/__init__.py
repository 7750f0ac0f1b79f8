"""What everything stands on: the study file, outputs on disk, files from the hub, work in parallel."""
