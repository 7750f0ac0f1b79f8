"""From codes to results: energies, the energy difference delta(k) and its distribution, memorization."""
