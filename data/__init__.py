"""Sources, mixtures, tokens, the store and the embedded toy world. Knows nothing of Ray or of trials."""
