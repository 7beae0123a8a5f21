"""The credit scorecard: trained here, reviewed and committed as a seed, scored in SQL and in plain Python."""
