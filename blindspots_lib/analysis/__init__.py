"""From codes to answers: energies, the energy difference delta(k), its distribution, memorization, and finished results."""
