"""The trial of the instrument: what was planted, what each method finds, and how well."""
