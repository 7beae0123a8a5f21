"""The third parties a lender buys from: a credit bureau and the central bank's exchange rates."""
