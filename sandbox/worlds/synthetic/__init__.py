"""The generated Brazilian lender.

`people` (customers, consents, accounts) → `orders` (demand and decisions) → `loans` (repayment) →
`bank` (transactions); `transitions` lines up the states of orders, `activity` writes the event log,
and `world` looks at all of it as of a day.
"""

from sandbox.worlds.synthetic.world import SyntheticWorld

__all__ = ["SyntheticWorld"]
