"""Bodies that compute takes: a file per noun."""
