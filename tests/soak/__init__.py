"""A fault campaign: runs killed at random moments, and after each a proof that nothing was lost."""
