"""Text-to-image models, x' = g(t), and the backbone that turns images into tokens."""
