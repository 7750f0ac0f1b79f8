"""The sparse autoencoder: dictionaries, codes, exact gradients, training, quality metrics, formats of other libraries."""
