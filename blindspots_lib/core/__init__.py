"""What all other rooms use: the study file, outputs on disk, files from the hub, jobs in parallel."""
