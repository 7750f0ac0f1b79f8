"""From codes to answers: energies, delta(k), names, families, calls, omission and intrusion, memorization, claims."""
