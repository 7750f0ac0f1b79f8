"""The sparse autoencoder: dictionaries, codes, exact gradients, training, measures of quality, formats of other libraries."""
