"""The outside world on one machine: a lender's database, its event log and the APIs it uses."""
