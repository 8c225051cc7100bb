"""Network's tables and transaction functions, a file per noun."""
