"""The live dashboard of credit orders: one reader of the database for any number of viewers."""
