"""The instrument on trial: what was planted, what each method finds, how well."""
