"""The real world `berka`: a Czech bank from 1993 to 1998, mapped to the app's schema.

The files are read from `BERKA_DIR` and never copied. What the bank's files do not say stays empty: no
event log, consents, evaluations or loan events exist, and nothing is made up to fill them. Three
things are worth knowing:

* Every source date becomes 12:00 UTC of that day, when it is the same day in Prague and São Paulo.
* The files hold one final status per loan and no history of it, so an order carries its
  `repayment_status` from its first day.
* The bank's complete transactions end on 1994-03-30, and so does the ledger of loan payments. An
  instalment is `paid` when the ledger holds its payment and `unknown` otherwise.
"""

from sandbox.worlds.berka.world import BerkaWorld

__all__ = ["BerkaWorld"]
